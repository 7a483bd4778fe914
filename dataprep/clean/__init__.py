"""The clean stage: raw files to documents.

`stage.py` is what the driver does, `part.py` what one task does with one input shard, `decisions.py` which texts stay.
"""
