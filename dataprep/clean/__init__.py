"""The clean stage: raw files become documents, which are extracted, normalised, filtered and signed.

`stage.py` is what the driver does, `part.py` what one task does with one input shard, and `decisions.py` which texts
stay. The rules themselves are in `dataprep/filters/families.py` and beside it.
"""
