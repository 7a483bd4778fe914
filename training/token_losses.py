"""The losses of a language model's logits: cross-entropy and z-loss, in fp32.

`loss_sums` goes through the logits a piece at a time, forward and backward. The fp32 copy of a piece, its softmax and
its gradient so stay in the cache, and the only tensor of the size of the logits that is made is their gradient.
`plain_loss_sums` computes the same in one line each, for `torch.compile` to make a kernel of.

Shape letters: B samples of a batch, T the sequence length, N = B x T positions, V the vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from training.data.sampler import IGNORE_INDEX

# Logits of a piece: 4 MB of fp32 lie in a core's cache, and a GPU wants large kernels.
_PIECE_LOGITS = {"cpu": 1 << 20, "cuda": 1 << 27}


class LossSums(NamedTuple):
    """Summed over the labels that are not `IGNORE_INDEX`."""

    loss: Tensor  # cross-entropy, nats
    z_loss: Tensor  # the square of log Z, against drifting logits (PaLM, section 5)


def loss_sums(logits_BTV: Tensor, labels_BT: Tensor) -> LossSums:
    """Both losses, computed in fp32; differentiable once, with a gradient in the type of the logits."""
    return LossSums(*_PiecewiseLosses.apply(logits_BTV.flatten(0, -2), labels_BT.flatten()))


def token_losses_sum(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """Summed cross-entropy in nats over the labels that are not `IGNORE_INDEX`."""
    return loss_sums(logits_BTV, labels_BT).loss


def plain_loss_sums(logits_BTV: Tensor, labels_BT: Tensor) -> LossSums:
    """What `loss_sums` computes, for a compiler: it makes whole tensors of fp32 where none fuses them away."""
    logits_NV, labels_N = logits_BTV.float().flatten(0, -2), labels_BT.flatten()
    loss = F.cross_entropy(logits_NV, labels_N, ignore_index=IGNORE_INDEX, reduction="sum")
    log_z_N = torch.logsumexp(logits_NV, dim=-1)
    return LossSums(loss, (log_z_N.square() * (labels_N != IGNORE_INDEX)).sum())


class _PiecewiseLosses(torch.autograd.Function):
    """(loss, z-loss) of logits_NV and labels_N.

    With p the softmax, the gradients of a position are p - onehot(label) and 2 log(Z) p.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
        counts_N, label_N1 = _counted(labels_N)
        rows = _rows_of_a_piece(logits_NV)
        pieces = zip(logits_NV.split(rows), label_N1.split(rows), strict=True)
        # torch's log-softmax is one pass over a piece, its logsumexp several.
        logprob_N = torch.cat(
            [torch.log_softmax(piece.float(), dim=-1).gather(1, label)[:, 0] for piece, label in pieces]
        )
        log_z_N = logits_NV.gather(1, label_N1)[:, 0].float() - logprob_N
        ctx.save_for_backward(logits_NV, labels_N, log_z_N)
        ctx.set_materialize_grads(False)
        loss = torch.where(counts_N, -logprob_N, 0.0).sum()
        return loss, torch.where(counts_N, log_z_N.square(), 0.0).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor | None, z_loss_gradient: Tensor | None) -> tuple[Tensor, None]:
        logits_NV, labels_N, log_z_N = ctx.saved_tensors
        counts_N, label_N1 = _counted(labels_N)
        loss_gradient = log_z_N.new_zeros(()) if loss_gradient is None else loss_gradient
        weight_N = loss_gradient.expand_as(log_z_N)
        if z_loss_gradient is not None:
            weight_N = weight_N + 2 * z_loss_gradient * log_z_N
        softmax_weight_N1 = torch.where(counts_N, weight_N, 0.0)[:, None]
        label_weight_N1 = torch.where(counts_N, -loss_gradient, 0.0)[:, None]
        gradient_NV = torch.empty_like(logits_NV)
        rows = _rows_of_a_piece(logits_NV)
        for start in range(0, len(logits_NV), rows):
            piece = slice(start, start + rows)
            # In fp32 a piece is made in its place; else it is rounded into it.
            place = gradient_NV[piece] if gradient_NV.dtype == torch.float32 else None
            gradient = torch.softmax(logits_NV[piece].float(), dim=-1, out=place)
            gradient.mul_(softmax_weight_N1[piece]).scatter_add_(1, label_N1[piece], label_weight_N1[piece])
            if place is None:
                gradient_NV[piece] = gradient
        return gradient_NV, None


def _counted(labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """(which labels count, the labels in a column, 0 where they don't). Other negative ones stay, and are refused."""
    counts_N = labels_N != IGNORE_INDEX
    return counts_N, torch.where(counts_N, labels_N, 0)[:, None]


def _rows_of_a_piece(logits_NV: Tensor) -> int:
    return max(1, _PIECE_LOGITS.get(logits_NV.device.type, 1 << 27) // logits_NV.shape[1])
