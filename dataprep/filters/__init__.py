"""Document filters, one file a family: per document, 0 for keep or 1 + the index of the first failing rule.

Rules, order, reason names and default thresholds follow datatrove 0.10.1's filters of the same names; what a word
is follows `dataprep.text.words`. A line is what `str.splitlines` gives, so texts with other line breaks than "\\n" are
judged alike before and after `dataprep.text.normalise`.
"""
