"""The sft, reward_model and dpo stages: TRL's trainers in our workers.

`trl_stage.py` is what the three share: DeepSpeed in earnest, checkpoints, resume, log and export.
"""
