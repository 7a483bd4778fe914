"""What documents are compared by: a hash of the exact text, a normal form of the URL, MinHash signatures.

`table.py` computes all of them for a column of documents.
"""
