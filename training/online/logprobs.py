"""Log-probabilities and entropies of the answer tokens, from a causal model's logits.

Policy, old policy and reference are all measured in one way, a float32 log-softmax at the sampling temperature, so that
their differences mean something.

Shape letters: B rows, T tokens of a row (prompt and answer, padded), A answer tokens (padded), K kept positions of a
row (see `RolloutBatch.kept_positions`), V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.online.rollout import RolloutBatch


def answer_logits(model: nn.Module, batch: RolloutBatch, *, temperature: float) -> Tensor:
    """The logits that predict the answers, over `temperature` (> 0), float32 `[B, K, V]`.

    `model` is a Hugging Face causal model, bare or in a DeepSpeed engine. The head runs on the kept positions only.
    """
    output = model(input_ids=batch.input_ids_BT, use_cache=False, logits_to_keep=batch.kept_positions)
    return output.logits.float() / temperature


def answer_logprobs(logits_BKV: Tensor, batch: RolloutBatch) -> Tensor:
    """The natural log of each answer token's probability, `[B, A]`, 0 in the padding."""
    chosen_BK = logits_BKV.gather(2, batch.next_ids.unsqueeze(-1)).squeeze(-1)
    return batch.answers_of(chosen_BK - torch.logsumexp(logits_BKV, dim=-1))


def answer_entropies(logits_BKV: Tensor, batch: RolloutBatch) -> Tensor:
    """The entropy in nats of the distribution that each answer token was drawn from, `[B, A]`, 0 in the padding."""
    log_softmax_BKV = torch.log_softmax(logits_BKV, dim=-1)
    return batch.answers_of(-(log_softmax_BKV.exp() * log_softmax_BKV).sum(dim=-1))
