"""Policy and reward endpoints on Ray Serve, the rollout engine and live weight updates.

Begin with `engine/torch_engine.py` (continuous batching over a Hugging Face model) and `policy.py`, the
deployment around it; `weights.py` is how new weights reach every replica.

    config.py       what a spec says about servers
    engine/         prompts to sampled tokens; no Ray in it
    policy.py       the policy deployment           reward.py, scoring.py   the reward deployment, and its core
    weights.py      publishing weights              buckets.py              weights as bytes
    rollouts.py     servers and client for online RL, through handles
    http.py         servers for people and programs, over HTTP: openai_api/ on Serve; api_keys.py
    chat.py         a terminal client of the HTTP API
    deploy.py       starting and removing Serve applications
    models.py       loading model directories       remote_errors.py        errors as the replica raised them
"""
