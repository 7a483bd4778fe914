"""A snapshot is what the tensors were, shares memory as they do, and lies where the one before lay."""

from __future__ import annotations

import io
from collections import OrderedDict
from typing import Any

import torch

from training.engine.host_snapshot import HostBuffers


def live_state() -> dict[str, Any]:
    flat = torch.arange(10.0)
    weights: OrderedDict[str, Any] = OrderedDict(a=flat[:4].view(2, 2), b=flat[4:], none=torch.empty(0))
    weights["tied"] = weights["a"]
    weights._metadata = {"version": 1}  # type: ignore[attr-defined]
    half = torch.arange(3, dtype=torch.bfloat16).requires_grad_()
    return {"module": weights, "groups": [{"lr": 0.1, "betas": (0.9, 0.95)}], "half": half, "step": 3}


def pickled(state: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def test_a_snapshot_does_not_change_with_what_it_was_taken_of() -> None:
    state, buffers = live_state(), HostBuffers()
    buffers.begin()
    taken = buffers.copy(state)
    state["module"]["a"].zero_()
    state["groups"][0]["lr"] = 0.5
    assert taken["module"]["a"].tolist() == [[0, 1], [2, 3]]
    assert taken["module"]["b"].tolist() == [4, 5, 6, 7, 8, 9]
    assert taken["half"].tolist() == [0, 1, 2]
    assert taken["half"].dtype == torch.bfloat16
    assert taken["groups"][0] == {"lr": 0.1, "betas": (0.9, 0.95)}
    assert taken["module"]._metadata == {"version": 1}


def test_tensors_that_share_memory_share_the_copy_so_no_byte_is_written_twice() -> None:
    state, buffers = live_state(), HostBuffers()
    buffers.begin()
    taken = buffers.copy(state)
    assert taken["module"]["tied"].data_ptr() == taken["module"]["a"].data_ptr()
    assert buffers.num_bytes == 10 * 4 + 3 * 2
    assert abs(len(pickled(taken)) - len(pickled(state))) < 300  # alike but for the gradient's flag


def test_the_next_snapshot_takes_the_memory_of_the_one_before() -> None:
    state, buffers = live_state(), HostBuffers()
    buffers.begin()
    first = buffers.copy(state)
    held = buffers.num_bytes
    state["module"]["b"].add_(1)
    buffers.begin()
    second = buffers.copy(state)
    assert second["module"]["b"].data_ptr() == first["module"]["b"].data_ptr()
    assert second["module"]["b"].tolist() == [5, 6, 7, 8, 9, 10]
    assert buffers.num_bytes == held


def test_two_copies_of_one_snapshot_do_not_overlap() -> None:
    buffers = HostBuffers()
    buffers.begin()
    first, second = buffers.copy(torch.zeros(5)), buffers.copy(torch.ones(5))
    assert (first.sum(), second.sum()) == (0, 5)
