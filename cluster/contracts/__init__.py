"""What all rooms share, and nothing else: storage and commit, row and request types, errors, progress.

A leaf: it imports none of the other packages, and all of them may import it. Begin with `artifacts.py`
(what passes between stages) and `commit.py` (how anything becomes visible).
"""
