"""Losses of logits against hand-computed numbers, and piece by piece against torch's own cross-entropy."""

from __future__ import annotations

import math

import pytest
import torch

from training import token_losses
from training.data.sampler import IGNORE_INDEX
from training.token_losses import loss_sums, plain_loss_sums, token_losses_sum

LABELS_BT = torch.tensor([[1, IGNORE_INDEX, 7]])


def test_loss_sums_over_labelled_positions_only() -> None:
    assert token_losses_sum(torch.zeros(1, 3, 8), LABELS_BT).item() == pytest.approx(2 * math.log(8))


def test_z_loss_is_the_square_of_log_z_over_labelled_positions_only() -> None:
    sums = loss_sums(torch.full((1, 3, 8), 0.5), LABELS_BT)
    assert sums.z_loss.item() == pytest.approx(2 * (0.5 + math.log(8)) ** 2)


def test_gradient_of_one_position_by_hand() -> None:
    logits_BTV = torch.tensor([[[0.0, math.log(3.0)]]], requires_grad=True)
    sums = loss_sums(logits_BTV, torch.tensor([[0]]))
    (sums.loss * 2 + sums.z_loss * 3).backward()
    log_z = math.log(4.0)  # softmax: 1/4, 3/4
    expected = [2 * (0.25 - 1) + 3 * 2 * log_z * 0.25, 2 * 0.75 + 3 * 2 * log_z * 0.75]
    assert logits_BTV.grad is not None
    assert logits_BTV.grad[0, 0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3, 4, 64])
def test_pieces_of_any_size_have_torchs_losses_and_gradients(
    dtype: torch.dtype, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(token_losses._PIECE_LOGITS, "cpu", rows * 50)
    generator = torch.Generator().manual_seed(rows)
    logits_BTV = (3 * torch.randn(2, 7, 50, generator=generator)).to(dtype)
    labels_BT = torch.randint(50, (2, 7), generator=generator)
    labels_BT[0, 3] = labels_BT[1, 6] = IGNORE_INDEX
    found = []
    for function in (loss_sums, plain_loss_sums):
        leaf = logits_BTV.clone().requires_grad_()
        sums = function(leaf, labels_BT)
        ((sums.loss + 0.1 * sums.z_loss) / 14).backward()
        found.append((sums.loss, sums.z_loss, leaf.grad))
    (loss, z_loss, gradient), (plain_loss, plain_z_loss, plain_gradient) = found
    torch.testing.assert_close(loss, plain_loss)
    torch.testing.assert_close(z_loss, plain_z_loss)
    assert gradient is not None
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, plain_gradient)  # in bf16 to one rounding
    assert gradient[0, 3].abs().sum() == 0


def test_a_label_that_is_no_token_is_refused() -> None:
    with pytest.raises(RuntimeError, match="index -1 is out of bounds"):
        token_losses_sum(torch.zeros(1, 2, 8), torch.tensor([[1, -1]]))


def test_a_masked_label_has_torchs_gradient() -> None:
    found = []
    for function in (loss_sums, plain_loss_sums):
        logits_BTV = torch.tensor([[[0.0, -math.inf, 1.0]]], requires_grad=True)
        sums = function(logits_BTV, torch.tensor([[1]]))
        assert sums.loss.item() == math.inf
        sums.loss.backward()
        found.append(logits_BTV.grad)
    torch.testing.assert_close(*found)
    assert found[0] is not None
    assert found[0].isfinite().all()


def test_logits_are_left_as_they_are() -> None:
    logits_BTV = torch.randn(1, 3, 8, requires_grad=True)
    before = logits_BTV.detach().clone()
    token_losses_sum(logits_BTV, LABELS_BT).backward()
    torch.testing.assert_close(logits_BTV.detach(), before, rtol=0, atol=0)


def test_a_gradient_that_is_no_number_reaches_every_labelled_position() -> None:
    logits_BTV = torch.randn(1, 3, 8, requires_grad=True)
    (token_losses_sum(logits_BTV, LABELS_BT) * math.nan).backward()
    assert logits_BTV.grad is not None
    assert logits_BTV.grad[0, 0].isnan().all()


def test_losses_of_bf16_logits_are_summed_in_fp32() -> None:
    logits_BTV = torch.zeros(1, 4096, 8, dtype=torch.bfloat16)
    found = token_losses_sum(logits_BTV, torch.zeros(1, 4096, dtype=torch.int64))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(4096 * math.log(8), rel=1e-6)
