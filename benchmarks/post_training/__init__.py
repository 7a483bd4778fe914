"""The bars of post-training. Begin with `__main__.py`; each bar is a module with a function that gives its figures.

coverage.py    8: intervals of evaluations, held against simulated truths
"""
