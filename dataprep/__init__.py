"""Raw documents to clean, deduplicated, tokenised Arrow shards, on Ray Data.

Begin with the stages: `clean.py`, `repeated_lines.py`, `dedupe.py`, `tokenizer.py`, `tokenize.py`, `mixture.py`. The
algorithms stand beside them in modules that import no Ray: `words.py`, `terms.py`, `filters/`, `minhash.py`,
`components.py`.
"""
