"""The tokenize stage: the documents that dedupe left, as token shards.

`stage.py` is what the driver does, `part.py` what one task does with one part of the documents.
"""
