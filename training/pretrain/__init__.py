"""The pretrain stage: a base model from token shards, on our own loop over the DeepSpeed engine.

`stage.py` is what the driver does; `loop.py` is what every rank does, and reads top to bottom.
"""
