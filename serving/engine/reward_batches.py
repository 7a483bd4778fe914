"""Rewards of token sequences from a sequence classifier, in batches of a bounded number of tokens. Imports no Ray.

Shape letters: B sequences of a batch, T tokens, C hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from cluster.contracts.errors import InputError
from cluster.contracts.reward_scale import UNSCALED


def token_batches(lengths: Sequence[int], *, max_batch_size: int, max_batch_tokens: int) -> list[list[int]]:
    """Indices of `lengths`, longest first, in batches whose padded size stays within `max_batch_tokens`.

    A sequence longer than that gets a batch of its own.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        batch = batches[-1] if batches else None
        if batch and len(batch) < max_batch_size and (len(batch) + 1) * lengths[batch[0]] <= max_batch_tokens:
            batch.append(index)
        else:
            batches.append([index])
    return batches


@torch.inference_mode()
def score_sequences(
    model: Any, sequences: Sequence[Sequence[int]], *, max_batch_size: int, max_batch_tokens: int
) -> list[float]:
    """The reward model's score at the last token of each sequence, in their order.

    The position is taken from the length. Hugging Face's own pooling looks for the last token that is not the
    padding token, and so scores an answer that ends in one (padding = end of text, often) at the wrong place.
    The scores are on the model's `reward_scale`, where it has one that is applied.
    Raises `InputError` for sequences the model can't take and `FloatingPointError` for scores that are not finite.
    """
    check_sequences(model, sequences)
    scores = [0.0] * len(sequences)
    scale = getattr(model, "reward_scale", UNSCALED)
    lengths = [len(sequence) for sequence in sequences]
    for batch in token_batches(lengths, max_batch_size=max_batch_size, max_batch_tokens=max_batch_tokens):
        longest = lengths[batch[0]]
        input_ids_BT = torch.tensor(
            [list(sequences[i]) + [0] * (longest - lengths[i]) for i in batch], device=model.device
        )
        lengths_B = torch.tensor([lengths[i] for i in batch], device=model.device)
        mask_BT = (torch.arange(longest, device=model.device) < lengths_B[:, None]).long()
        hidden_BTC = model.base_model(input_ids=input_ids_BT, attention_mask=mask_BT, use_cache=False).last_hidden_state
        last_BC = hidden_BTC[torch.arange(len(batch), device=model.device), lengths_B - 1]
        for index, score in zip(batch, model.score(last_BC)[:, 0].float().tolist(), strict=True):
            if not math.isfinite(score):
                raise FloatingPointError(f"the reward model gave {score} for sequence {index}")
            scores[index] = scale.scaled(score)
    return scores


def check_sequences(model: Any, sequences: Sequence[Sequence[int]]) -> None:
    """Raises `InputError` for a sequence that is empty, too long or holds ids outside of the vocabulary."""
    config = model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None)
    for index, sequence in enumerate(sequences):
        if not sequence:
            raise InputError(f"sequence {index} to be scored is empty")
        if longest is not None and len(sequence) > longest:
            raise InputError(f"sequence {index} has {len(sequence)} tokens; the reward model takes {longest}")
        if not all(0 <= token < config.vocab_size for token in sequence):
            raise InputError(f"sequence {index} holds token ids outside of 0 to {config.vocab_size - 1}")
