"""Pre-training, supervised fine-tuning, preferences, reward models, DPO, online RL and evaluation.

Begin with `pretrain/loop.py`, what each worker of a pre-training stage does, top to bottom; then `online/loop.py`, the
same for PPO. Every training function takes a `Worker` and knows nothing of Ray, so it also runs from plain processes.

    Stages
    pretrain/           a base model, from scratch or from a model
    candidates/         several answers to each prompt, of several models, by the serving engine
    preferences/        preference pairs out of conversations and texts
    post_training/      SFT, reward model and DPO, by TRL's trainers
    online/             PPO
    evaluate/           models side by side

    What stages share
    data/               token shards to samples: order, packing, local copies of remote shards
    conversations/      reading, splitting and encoding conversations
    feedback/           preference pairs: making, reading and encoding them; baselines to hold against
    inference/          log-probabilities, rewards and answers of a model
    engine/             all of DeepSpeed: engines, their settings, snapshots, resuming
    checkpoint/         checkpoints that are whole or absent, written behind training
    launch/             all of Ray Train: starting workers, naming the one that hangs
    metrics/            `metrics.jsonl` and trackers

    base_model/         models from outside, checked before workers start; adapters merged with their base
    models.py           presets, Hugging Face configs and model directories
    tokenizers.py       a model's tokenizer, and the token that ends an answer
    schedules.py        learning rates over the steps
    token_losses.py     cross-entropy and z-loss by token
    export.py           a finished model from memory to its artifact
    config.py           settings that several stages share
"""
