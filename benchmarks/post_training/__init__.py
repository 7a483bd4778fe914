"""The bars of post-training. Begin with `__main__.py`; each bar is a module with a function that gives its figures.

../chat_templates.py   1: every chat template that TRL ships
parity.py      2: per-step losses of all stages beside plain TRL's (`plain_trl.py`) on the same token ids
step_time.py   3: the time of a step beside plain TRL's
adapter_exports.py    4: the logits of LoRA exports beside those of the trained models
ranking_recovery.py   6: a reward model from rankings by a hidden scorer (`hidden_scorer.py`), held against its order
coverage.py    8: intervals of evaluations, held against simulated truths
"""
