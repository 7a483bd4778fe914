"""Measures given sequences by a model: the log-probabilities of answers, and rewards.

Every stage measures by these functions, so figures of different models and stages can be compared. They are plain
torch, take no gradients, and leave the model in the mode it was in.

Logits of a batch are the largest tensor by far: 32 rows of 2,048 tokens and 150,000 words are 40 GB in fp32. So they
are made of a few positions at a time, and only of those that count.

Shape letters: N rows, P pairs, B rows of a batch, T positions, K of them that count, H hidden size, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from cluster.contracts.reward_scale import UNSCALED
from training.feedback.encoded_pairs import EncodedPair

_CHUNK_LOGITS = 1 << 24  # numbers, 64 MB in fp32


@dataclass(frozen=True)
class AnswerLogprobs:
    """Per row, the summed natural-log probability of its answer tokens, and how many there are."""

    logprobs_N: torch.Tensor  # float64
    num_tokens_N: torch.Tensor  # int64

    def nll(self) -> float:
        """Mean negative log-likelihood per answer token, over all rows, in nats."""
        return float(-self.logprobs_N.sum() / self.num_tokens_N.sum())


def answer_logprobs(
    model: Any,
    input_ids_N: Sequence[Sequence[int]],
    answer_masks_N: Sequence[Sequence[bool]],
    *,
    pad_token_id: int,
    batch_size: int = 32,
) -> AnswerLogprobs:
    """Log-probabilities of the tokens under the masks, each given all tokens before it.

    A row's first token has nothing before it and is never counted. `batch_size` rows go through the model at a time,
    and the logits of some `_CHUNK_LOGITS` numbers are there at a time.
    """
    logprobs_N = torch.zeros(len(input_ids_N), dtype=torch.float64)
    num_tokens_N = torch.zeros(len(input_ids_N), dtype=torch.int64)
    with _inference(model):
        for rows in _batches_by_length([len(ids) for ids in input_ids_N], batch_size):
            input_ids_BT, attention_mask_BT = padded([input_ids_N[r] for r in rows], pad_token_id, model.device)
            answer_mask_BT, _ = padded([[int(a) for a in answer_masks_N[r]] for r in rows], 0, model.device)
            counted_BT = answer_mask_BT[:, 1:].bool()
            token_logprobs_BT = torch.zeros(counted_BT.shape, device=model.device)
            token_logprobs_BT[counted_BT] = next_token_logprobs(model, input_ids_BT, attention_mask_BT, counted_BT)
            logprobs_N[rows] = token_logprobs_BT.sum(1).double().cpu()
            num_tokens_N[rows] = counted_BT.sum(1).cpu()
    return AnswerLogprobs(logprobs_N, num_tokens_N)


def next_token_logprobs(
    model: Any, input_ids_BT: torch.Tensor, attention_mask_BT: torch.Tensor, counted_BT: torch.Tensor
) -> torch.Tensor:
    """[K] float32, the log-probability of the token behind each position of `counted_BT` [B, T - 1], row by row.

    The model's layers run once, up to their last hidden states. Its own forward then makes logits of a few of these at
    a time, so that scaled or capped logits come out as they are. A model whose forward does not allow that, since it
    has no `base_model` of its own, makes all logits at once.
    """
    targets_K = input_ids_BT[:, 1:][counted_BT]
    inputs = {"input_ids": input_ids_BT, "attention_mask": attention_mask_BT, "use_cache": False}
    layers = getattr(model, "base_model", model)
    if layers is model:
        return _logprobs(model(**inputs).logits[:, :-1][counted_BT], targets_K)
    try:
        hook = layers.register_forward_hook(_stop)
        try:
            return _logprobs(model(**inputs).logits[:, :-1][counted_BT], targets_K)  # of layers that were not called
        finally:
            hook.remove()
    except _Stopped as stopped:
        output = stopped.output
    hidden_KH = output.last_hidden_state[:, :-1][counted_BT]
    chunk = max(1, _CHUNK_LOGITS // model.get_output_embeddings().weight.shape[0])
    logprobs = [
        _logprobs(_logits(model, layers, output, part_KH), part_K)
        for part_KH, part_K in zip(hidden_KH.split(chunk), targets_K.split(chunk), strict=True)
    ]
    return torch.cat(logprobs) if logprobs else torch.zeros(0, device=hidden_KH.device)


class _Stopped(Exception):
    """Raised behind a model's layers, with what they gave."""

    def __init__(self, output: Any) -> None:
        self.output = output


def _stop(_module: Any, _inputs: Any, output: Any) -> None:
    raise _Stopped(output)


def _logits(model: Any, layers: Any, output: Any, hidden_KH: torch.Tensor) -> torch.Tensor:
    """[K, V] what the model's own forward makes of these last hidden states of `layers`."""
    given = copy.copy(output)
    given.last_hidden_state = hidden_KH[None]
    own = vars(layers).get("forward")  # where a library has put one over the class's
    layers.forward = lambda *_, **__: given
    try:
        placeholder_1K = torch.zeros((1, len(hidden_KH)), dtype=torch.long, device=hidden_KH.device)
        logits: torch.Tensor = model(input_ids=placeholder_1K, use_cache=False).logits[0]
        return logits
    finally:
        del layers.forward
        if own is not None:
            layers.forward = own


def _logprobs(logits_KV: torch.Tensor, targets_K: torch.Tensor) -> torch.Tensor:
    return -cross_entropy(logits_KV.float(), targets_K, reduction="none")


def pair_logprobs(
    model: Any, pairs_P: Sequence[EncodedPair], *, pad_token_id: int, batch_size: int = 32
) -> torch.Tensor:
    """[P, 2] float64, the log-probabilities of each pair's chosen and rejected answer, given its prompt."""
    columns = []
    for sequences, masks in (
        ([pair.chosen for pair in pairs_P], [pair.chosen_answer_mask for pair in pairs_P]),
        ([pair.rejected for pair in pairs_P], [pair.rejected_answer_mask for pair in pairs_P]),
    ):
        scored = answer_logprobs(model, sequences, masks, pad_token_id=pad_token_id, batch_size=batch_size)
        columns.append(scored.logprobs_N)
    return torch.stack(columns, dim=1)


def rewards(
    model: Any, input_ids_N: Sequence[Sequence[int]], *, pad_token_id: int, batch_size: int = 32
) -> torch.Tensor:
    """[N] float64, the score that a one-label sequence classifier gives each whole sequence, on its `reward_scale`."""
    scale = getattr(model, "reward_scale", UNSCALED)
    rewards_N = torch.zeros(len(input_ids_N), dtype=torch.float64)
    with _inference(model):
        for rows in _batches_by_length([len(ids) for ids in input_ids_N], batch_size):
            input_ids_BT, attention_mask_BT = padded([input_ids_N[r] for r in rows], pad_token_id, model.device)
            logits_B1 = model(input_ids=input_ids_BT, attention_mask=attention_mask_BT, use_cache=False).logits
            rewards_N[rows] = logits_B1[:, 0].double().cpu()
    if scale.applied:
        return (rewards_N - scale.mean) / (scale.std or 1.0)
    return rewards_N


def padded(
    sequences_B: Sequence[Sequence[int]], pad_value: int, device: torch.device, *, side: str = "right"
) -> tuple[torch.Tensor, torch.Tensor]:
    """(values [B, T], mask [B, T] with 1 at real positions), padded to the longest."""
    longest = max(len(sequence) for sequence in sequences_B)
    values_BT = torch.full((len(sequences_B), longest), pad_value, dtype=torch.long)
    mask_BT = torch.zeros((len(sequences_B), longest), dtype=torch.long)
    for row, sequence in enumerate(sequences_B):
        place = slice(0, len(sequence)) if side == "right" else slice(longest - len(sequence), longest)
        values_BT[row, place] = torch.tensor(sequence, dtype=torch.long)
        mask_BT[row, place] = 1
    return values_BT.to(device), mask_BT.to(device)


def _batches_by_length(lengths_N: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Row numbers in batches of rows of like length, so that little is padding."""
    order = sorted(range(len(lengths_N)), key=lambda row: lengths_N[row])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


@contextmanager
def _inference(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
