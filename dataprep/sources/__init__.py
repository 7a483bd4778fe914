"""Raw files, read record by record: a module for each format.

Begin with `records.py`, which says what every reader yields. `formats.py` tells the format of a file by its name,
`shards.py` divides the files into what one task reads, and `readers.py` picks the reader. A reader never raises for bad
data: what can't be read becomes a `Quarantined` record with file, offset and reason, and the rest of the file is read.
"""
