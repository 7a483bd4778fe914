"""Online RL on our own loop: PPO with a critic; GRPO and RLOO advantages are here as pure functions.

Begin with `loop.py`, what each worker does, top to bottom. The mathematics stands alone: `advantages.py`
(GAE, group-relative, whitening), `losses.py` (clipped losses), `kl.py` (estimators), `rewards.py` (where
score and KL land). `rollout.py` is the typed batch between them.
"""
