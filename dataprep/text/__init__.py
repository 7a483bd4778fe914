"""Text as columns: one UTF-8 buffer with offsets, and what is split from it once for all that use it.

Begin with `column.py`. `words.py` says what a word is (which filters count) and `match_terms.py` what a term is (which
duplicates are matched on); `word_rules.py` has the rules of words. `normalise.py` gives texts their normal form,
`edits.py` cuts spans out of them. The rest is for compiled loops: `spans.py`, `characters.py`, `hashing.py`,
`hash_table.py`, `numba_pointers.py`.
"""
