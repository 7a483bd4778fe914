"""Our rollout engine against padded Hugging Face `generate`: useful tokens per CPU-second, one thread.

The same random model (5 million parameters), prompts and answer lengths on both sides, in turn. Answer lengths are
ragged (geometric), as sampled answers are: `generate` decodes every row of a batch until its longest is done, the
engine drops a row when it ends and takes the next.
"""

from __future__ import annotations

import json
import statistics
import time

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cluster.contracts.records import GenerateRequest, SamplingParams
from serving.engine.torch_engine import TorchEngine

NUM_REQUESTS, BATCH_SIZE, MEAN_TOKENS, LONGEST, VOCAB, ROUNDS = 64, 16, 40, 165, 4096, 3


def main() -> None:
    """Both sides, in turn, `ROUNDS` times; prints a table and one JSON line."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=512, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    draw = np.random.default_rng(0)
    prompts = [draw.integers(1, VOCAB, draw.integers(8, 40)).tolist() for _ in range(NUM_REQUESTS)]
    lengths = np.clip(draw.geometric(1 / MEAN_TOKENS, NUM_REQUESTS), 1, LONGEST).tolist()
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(sum(lengths) / _cpu_seconds(lambda: run_engine(model, prompts, lengths)))
        theirs.append(sum(lengths) / _cpu_seconds(lambda: run_generate(model, prompts, lengths)))
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    print(f"{NUM_REQUESTS} requests, {sum(lengths)} useful tokens, longest {max(lengths)}, batches of {BATCH_SIZE}")
    print(f"engine              {statistics.median(ours):8.0f} useful tokens per CPU-second")
    print(f"generate, padded    {statistics.median(theirs):8.0f}")
    print(json.dumps({"bar": "rollouts-1", "value": round(ratio, 2), "asked": 1, "holds": ratio >= 1}))


def run_engine(model: LlamaForCausalLM, prompts: list[list[int]], lengths: list[int]) -> None:
    """All requests through continuous batching."""
    engine = TorchEngine(model, max_batch_size=BATCH_SIZE)
    for prompt, length in zip(prompts, lengths, strict=True):
        engine.submit(GenerateRequest(prompt, SamplingParams(max_new_tokens=length)))
    while engine.step():
        pass


@torch.inference_mode()
def run_generate(model: LlamaForCausalLM, prompts: list[list[int]], lengths: list[int]) -> None:
    """Batches in the order of the requests, left-padded, each decoded to its longest answer."""
    for start in range(0, len(prompts), BATCH_SIZE):
        batch = prompts[start : start + BATCH_SIZE]
        longest = max(len(prompt) for prompt in batch)
        input_ids = torch.tensor([[0] * (longest - len(p)) + p for p in batch])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in batch])
        model.generate(
            input_ids=input_ids, attention_mask=mask, do_sample=True, top_k=0, pad_token_id=0, eos_token_id=None,
            max_new_tokens=max(lengths[start : start + BATCH_SIZE]),
        )  # fmt: skip


def _cpu_seconds(work: object) -> float:
    assert callable(work)
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    main()
