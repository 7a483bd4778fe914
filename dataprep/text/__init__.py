"""Text as columns: one UTF-8 buffer, offsets, and what is split from it once.

Begin with `column.py`; `words.py` and `match_terms.py` say what a word and a term are.
"""
