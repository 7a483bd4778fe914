"""What documents are compared by, computed once and stored beside them: a signature each.

`table.py` makes the signatures of a column of documents: `exact.py` hashes the text, `minhash.py` makes MinHashes.
`url.py` gives URLs a normal form, and `bit_sketch.py` shortens MinHashes to estimate similarities by.
"""
