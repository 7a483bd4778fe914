"""The dedupe stage: finds exact, URL and near duplicates, and lists the rows that go for each part.

`stage.py` is what the driver does, in this order: `corpora.py` counts all documents through, `match_keys.py` gives them
keys, `keyed_shuffle.py` brings equal keys together, `bucket_edges.py` joins what shares a key by edges, `union_find.py`
makes groups of these, `removals.py` says who stays, and `clusters.py` writes the groups down to look at. `matching.py`
runs the middle of that as tasks.
"""
