"""Side by side with peers: both sides in one go, in turn, a table, and one JSON line per figure.

`python -m benchmarks` lists them; `python -m benchmarks.NAME` runs one.
"""
