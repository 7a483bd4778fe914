"""Policy and reward endpoints on Ray Serve, the rollout engine and live weight updates.

Begin with `engine/torch_engine.py` (continuous batching over a Hugging Face model) and `policy.py`, the
deployment around it; `weights.py` is how new weights reach every replica.
"""
