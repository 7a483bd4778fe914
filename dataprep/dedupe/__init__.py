"""The dedupe stage: exact, URL and near duplicates, as a list of removed rows for each part.

`stage.py` reads top to bottom: `match_keys.py` gives documents keys, `keyed_shuffle.py` brings equal keys together,
`bucket_edges.py` turns them into edges, `union_find.py` joins edges into groups, `removals.py` says who stays.
"""
