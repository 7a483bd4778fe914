from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from training.finite_weights import bad_weights, not_finite


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_wrong_value_among_many_is_found(wrong: float, dtype: torch.dtype) -> None:
    fine, broken = torch.ones(7, 5, dtype=dtype), torch.ones(7, 5, dtype=dtype)
    broken[6, 4] = wrong
    assert not_finite([("a", fine), ("b", broken)]) == ["b"]


def test_nan_in_eight_bits_is_found() -> None:
    assert not_finite([("a", torch.tensor([1.0, math.nan]).to(torch.float8_e4m3fn))]) == ["a"]


def test_empty_and_whole_numbers_and_the_largest_ones_are_finite() -> None:
    largest = torch.full((3,), torch.finfo(torch.float32).max)
    assert not_finite([("empty", torch.empty(0)), ("ids", torch.arange(3)), ("largest", largest)]) == []


def test_a_directory_is_told_by_the_names_of_its_bad_tensors(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2), "b": torch.tensor([1.0, math.nan])}, tmp_path / "1.safetensors")
    save_file({"c": torch.tensor([math.inf])}, tmp_path / "2.safetensors")
    assert bad_weights(tmp_path) == "2 of 3 weights are nan or infinite (b, c)"
    save_file({"b": torch.ones(2)}, tmp_path / "1.safetensors")
    save_file({"c": torch.ones(2)}, tmp_path / "2.safetensors")
    assert bad_weights(tmp_path) is None
