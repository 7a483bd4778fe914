"""Raw documents to clean, deduplicated, tokenised Arrow shards, on Ray Data.

Begin with `clean.py`, `dedupe.py` and `tokenize.py`, the three stages. The algorithms stand beside them
in modules that import no Ray: `words.py`, `terms.py`, `filters/`, `minhash.py`, `components.py`.
"""
