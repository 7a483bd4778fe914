"""The bars of post-training. Begin with `__main__.py`; each bar is a module with a function that gives its figures.

parity.py      2: per-step losses of all stages beside plain TRL's (`plain_trl.py`) on the same token ids
step_time.py   3: the time of a step beside plain TRL's
coverage.py    8: intervals of evaluations, held against simulated truths
"""
