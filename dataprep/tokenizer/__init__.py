"""The tokenizer stage: trains byte-level BPE and saves a Hugging Face tokenizer directory.

`encoders.py` is shared: it turns text into token ids by the fastest path that gives the tokenizer's own ids.
"""
