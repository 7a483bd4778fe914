"""Filters of documents, a file for each family of rules.

`families.py` runs those that differ by language, one after another. A family measures each document (`scores.py`) and
turns the scores into codes: 0 to keep it, else 1 + the index of the first rule that fails, in the family's `REASONS`.
`url_blocklist.py`, `language.py`, `quality.py` and `decontamination.py` are run by the clean stage itself, before and
after the families.

Rules, their order, the names of reasons and the default thresholds are those of datatrove 0.10.1's filters of the same
names; what a word is follows `dataprep.text.words`. A line is what `str.splitlines` gives, so texts with other line
breaks than "\\n" are judged alike before and after `dataprep.text.normalise`.
"""
