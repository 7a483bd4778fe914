"""The report of a run: one page for people, one JSON file with the same figures for programs. Begin with `write.py`."""
