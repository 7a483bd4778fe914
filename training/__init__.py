"""Pre-training, supervised fine-tuning, reward models, DPO, online RL and evaluation.

Begin with `pretrain.py`, which reads top to bottom; `engine.py` holds all DeepSpeed but for its settings
(`engine_config.py`, `passthrough.py`), `workers.py` all Ray Train. Every training function also runs from a
plain process, without Ray.
"""
