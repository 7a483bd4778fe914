"""Feedback on answers: pairs, rankings, scores and labels. How they are read, converted, split, stored and encoded.

Begin with `rows.py`.

    rows.py            what a row of each kind is
    formats.py         makes rows of what files hold; `prompts.py`, `row_values.py` and `transcripts.py` are its parts
    reading.py         reads files, and sets aside what is no feedback
    scales.py          brings scores of one prompt together
    splitting.py       training and held-out rows, by prompt
    conversions.py     one kind out of another
    artifact.py        the one schema that all kinds are stored under; `exports.py`: what TRL takes
    pairs.py           the pairs of an artifact; `encoded_pairs.py`: as token ids
    worse_answers.py   answers made worse; `sentences.py`: prompts and answers out of running text
    pair_baselines.py  what a reward model must beat
"""
