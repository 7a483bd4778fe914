"""The rollout engines: what turns prompts into sampled tokens. Nothing in here imports Ray.

protocol.py       what an engine is: submit, step, cancel, update_weights, load
torch_engine.py   ours: continuous batching over a Hugging Face causal LM, on CPUs and GPUs
ragged_model.py   the model's side of it: prefill and decode of rows of different lengths
kv_cache.py       the key-value cache, one slot per live row
sampling.py       temperature, top-k, top-p, and inverse-CDF draws that a seed repeats
reward_batches.py how sequences to be scored are batched
loop.py           runs an engine in a thread for asyncio callers
"""
