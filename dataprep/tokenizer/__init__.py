"""The tokenizer stage: trains byte-level BPE and saves a Hugging Face tokenizer directory.

`stage.py` draws the sample, `bpe_training.py` trains on it, `chat_template.py` is the chat format it is saved with.
`encoders.py`, which the tokenize stage uses too, turns text into token ids by the fastest encoder that gives the
tokenizer's own ids; `pretokenizer.py` and `compiled_bpe.py` are ours.
"""
