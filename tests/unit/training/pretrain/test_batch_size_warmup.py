"""The batch-size warm-up, against a step-by-step count."""

import pytest

from training.pretrain.batch_size_warmup import BatchPlan


@pytest.mark.parametrize(
    "plan",
    [
        BatchPlan(64),
        BatchPlan(64, 16, 16, 1000),
        BatchPlan(48, 32, 5, 77),
        BatchPlan(8, 2, 100, 1),
        BatchPlan(9, 1, 1, 0),
    ],
)
def test_first_sample_is_the_sum_of_the_steps_before(plan: BatchPlan) -> None:
    total = 0
    for step in range(120):
        assert plan.first_sample(step) == total
        total += plan.batch_size(step)


def test_batches_grow_by_the_increment_and_share_the_warm_up_evenly() -> None:
    plan = BatchPlan(64, 16, 16, 960)
    sizes = [plan.batch_size(step) for step in range(40)]
    assert plan.sizes() == [16, 32, 48, 64]
    assert [sizes.count(size) for size in (16, 32, 48)] == [20, 10, 7]  # 320 samples each, rounded up to whole steps
    assert sizes == sorted(sizes)


def test_steps_for_is_the_fewest_that_reach_the_samples() -> None:
    plan = BatchPlan(64, 16, 16, 1000)
    for samples in (1, 16, 17, 999, 1000, 5000):
        steps = plan.steps_for(samples)
        assert plan.first_sample(steps) >= samples > plan.first_sample(steps - 1)
