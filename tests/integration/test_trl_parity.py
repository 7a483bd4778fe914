"""Our stages train as plain TRL does on the same token ids; all cases in the soak tests, some in each run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.post_training.parity import (
    ONE_RANK,
    TWO_RANKS,
    Case,
    largest_difference,
    make_inputs,
    our_losses,
    run_ours,
    run_two_ranks,
)
from tests.integration.single_rank import one_rank

assert one_rank  # the fixture of that name, for this module too


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parity")
    make_inputs(root)
    return root


@pytest.mark.parametrize("case", [Case("dpo"), Case("kto", lora=True)], ids=lambda case: case.name)
def test_each_step_s_loss_is_plain_trl_s(case: Case, root: Path) -> None:
    run_ours(root, case)
    assert largest_difference(root, case) < 1e-5


@pytest.mark.soak
@pytest.mark.parametrize("case", ONE_RANK, ids=lambda case: case.name)
def test_so_it_is_for_every_stage(case: Case, root: Path) -> None:
    run_ours(root, case)
    assert largest_difference(root, case) < 1e-5


@pytest.mark.soak
def test_and_on_two_ranks(root: Path) -> None:
    run_two_ranks(root, TWO_RANKS)
    for case in TWO_RANKS:
        assert largest_difference(root, case) < 1e-3, case.name


def test_packed_conversations_have_the_loss_of_conversations_side_by_side(root: Path) -> None:
    """A first step on four rows, and on one pack of them: nothing in the pack sees what is before it."""
    first = Case("sft")
    run_ours(root, first, global_batch_size=4, epochs=0.095, warmup_fraction=0.0)
    packed = Case("sft", lora=False, zero_stage=1)
    run_ours(
        root, packed, global_batch_size=1, epochs=0.095, warmup_fraction=0.0, max_length=256, trl={"packing": True}
    )
    apart, together = our_losses(root, first), our_losses(root, packed)
    assert len(together) == len(apart) == 1
    assert together == pytest.approx(apart, abs=1e-5)
