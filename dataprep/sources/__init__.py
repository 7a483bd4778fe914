"""Reading raw files record by record; one module a format.

Begin with `records.py`: what every reader yields. `formats.py` tells a file's format, `shards.py` what one task
reads, `readers.py` picks the reader. A reader never raises for bad data: what can't be read becomes a
`Quarantined` with file, offset and reason, and the rest of the file is still read.
"""
