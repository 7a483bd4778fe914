"""The report of a run, and the comparison of two: a page for people, a JSON file with the same figures for programs.

Begin with `write.py` (one run) and `compare.py` (two). Both pages extend `templates/page.html.j2`.
"""
