"""The tokenize stage: the documents that dedupe left become token shards.

`stage.py` is what the driver does, `part.py` what one task does with one part of the documents, and `token_spool.py`
keeps that task's memory bounded.
"""
