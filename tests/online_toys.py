"""Real but tiny servers' side for tests of online RL: a tokenizer, models, and a client over the real engine.

Nothing is mocked: answers are sampled by `serving`'s engine from a Llama whose weights `publish` replaces, and
scores come from a sequence classifier.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from cluster.contracts.artifacts import Artifact, Manifest
from cluster.contracts.records import GenerateRequest, Rollout
from serving.engine.torch_engine import TorchEngine
from tests.chat_fixtures import make_conversations

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}\n"
    "{% else %}{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def toy_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and the chat template's two control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>")
    fast.add_special_tokens({"extra_special_tokens": ["<|im_start|>"]})
    fast.chat_template = CHAT_TEMPLATE
    return fast


def toy_artifacts(directory: Path, *, seed: int = 0) -> dict[str, Artifact]:
    """A policy and a reward model of random weights, as the artifacts that PPO takes.

    The policy ends an answer after a dozen tokens or so. The reward is a function of the whole conversation that
    answers differ in, since the classifier's head reads the last token's state.
    """
    tokenizer = toy_tokenizer()
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(seed)
    policy = LlamaForCausalLM(LlamaConfig(**shape))
    reward_model = LlamaForSequenceClassification(LlamaConfig(**shape, num_labels=1, initializer_range=0.2))
    made = {}
    for role, kind, model in (("policy", "sft", policy), ("reward_model", "reward_model", reward_model)):
        path = directory / role
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        made[role] = Artifact(str(path), Manifest(kind=kind, fingerprint=f"toy-{seed}", config={}, inputs={}))
    return made


def toy_conversations(
    directory: Path, num_prompts: int = 40, *, heldout_fraction: float = 0.2, copies: int = 1
) -> Artifact:
    """A conversations artifact of that many distinct first prompts."""
    rows = [
        {"messages": [{"role": "user", "content": f"q{i}?"}, {"role": "assistant", "content": "yes"}]}
        for i in range(num_prompts)
    ]
    directory.mkdir(parents=True)
    path = directory / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * copies))
    return make_conversations(directory, [path], heldout_fraction=heldout_fraction)


class ToyServers:
    """Both servers in one process, with the methods of a `RolloutClient`."""

    def __init__(self, policy_path: str, reward_path: str) -> None:
        self.engine = TorchEngine(AutoModelForCausalLM.from_pretrained(policy_path).eval(), max_batch_tokens=8192)
        self.reward_model = AutoModelForSequenceClassification.from_pretrained(reward_path).eval()
        self.published: list[int] = []
        self.newest: dict[str, torch.Tensor] = {}

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Rollout]:
        order = [self.engine.submit(request) for request in requests]
        events: dict[int, list[Any]] = {identifier: [] for identifier in order}
        while step := self.engine.step():
            for event in step:
                events[event.request_id].append(event)
        return [
            Rollout(
                prompt_ids_P=np.array(request.prompt_ids, dtype=np.int32),
                answer_ids_A=np.array([e.token_id for e in events[identifier]], dtype=np.int32),
                logprobs_A=np.array([e.logprob for e in events[identifier]], dtype=np.float32),
                versions_A=np.array([e.version for e in events[identifier]], dtype=np.int32),
                finish_reason=events[identifier][-1].finish_reason,
            )
            for request, identifier in zip(requests, order, strict=True)
        ]

    def score(self, token_ids: Sequence[Sequence[int]]) -> list[float]:
        with torch.inference_mode():
            rows = [self.reward_model(input_ids=torch.tensor([list(ids)])) for ids in token_ids]
        return [float(row.logits[0, 0]) for row in rows]

    def publish(self, version: int, state: dict[str, Any]) -> None:
        self.engine.update_weights(version, state)
        self.published.append(version)
        self.newest = state
