import numpy as np
import pytest
import torch
from scipy import stats
from transformers import TopKLogitsWarper, TopPLogitsWarper

from cluster.contracts.records import SamplingParams
from serving.engine.sampling import inverse_cdf, restrict, sample_tokens, uniforms

MASK_64 = (1 << 64) - 1


def splitmix64(x: int) -> int:
    """The reference algorithm, on Python integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK_64
    return x ^ (x >> 31)


def test_uniforms_equal_splitmix64_on_python_integers() -> None:
    weyl = 0x9E3779B97F4A7C15
    seeds, positions = [0, 1, 12345, -1, 1 << 63], [0, 1, 2, 100_000, 7]
    expected = [
        ((splitmix64((splitmix64((s + weyl) & MASK_64) + (p + 1) * weyl) & MASK_64) >> 32) + 0.5) / 2**32
        for s, p in zip(seeds, positions, strict=True)
    ]
    assert uniforms(seeds, positions).tolist() == expected


def test_uniforms_are_uniform_and_independent_over_seeds_and_positions() -> None:
    grid = np.array([uniforms([seed] * 200, range(200)) for seed in range(200)])
    assert grid.min() > 0
    assert grid.max() < 1
    assert stats.kstest(grid.ravel(), "uniform").pvalue > 0.01
    # 40,000 pairs: a correlation beyond 4 / sqrt(n) would be no chance.
    for a, b in ((grid[:, :-1], grid[:, 1:]), (grid[:-1], grid[1:])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / np.sqrt(a.size)


def test_inverse_cdf_takes_hand_computed_tokens_and_never_one_of_probability_zero() -> None:
    probs = torch.tensor([[0.0, 0.5, 0.0, 0.25, 0.25, 0.0]]).repeat(5, 1)
    draws = torch.tensor([1e-12, 0.4999, 0.5, 0.75, 1 - 1e-12], dtype=torch.float64)
    assert inverse_cdf(probs, draws).tolist() == [1, 1, 3, 4, 4]


def test_inverse_cdf_needs_no_normalisation() -> None:
    probs = torch.tensor([[0.2, 0.1, 0.1]])
    assert inverse_cdf(probs, torch.tensor([0.49], dtype=torch.float64)).item() == 0
    assert inverse_cdf(probs, torch.tensor([0.51], dtype=torch.float64)).item() == 1


def test_inverse_cdf_finds_the_tail_of_a_large_vocabulary() -> None:
    vocab = 150_000
    probs = torch.full((1, vocab), 1 / vocab)
    for share in (0.1, 0.5, 0.99999):
        assert abs(inverse_cdf(probs, torch.tensor([share], dtype=torch.float64)).item() - share * vocab) <= 1


@pytest.mark.parametrize("top_k", [0, 1, 3, 50])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3, 0.01])
def test_restrict_keeps_what_the_transformers_warpers_keep(top_k: int, top_p: float) -> None:
    logits = torch.randn(16, 50, generator=torch.Generator().manual_seed(0)) * 3
    expected = logits
    if top_k > 0:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    kept = restrict(
        logits.softmax(-1), top_k_B=torch.full((16,), top_k), top_p_B=torch.full((16,), top_p, dtype=torch.float64)
    )
    assert torch.equal(kept > 0, expected.softmax(-1) > 0)
    torch.testing.assert_close(kept / kept.sum(-1, keepdim=True), expected.softmax(-1))


def test_rows_with_different_settings_do_not_touch_each_other() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 30, generator=generator)
    settings = [
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=0.5),
        SamplingParams(top_k=2),
        SamplingParams(temperature=2.0, top_p=0.5),
    ]
    draws = torch.rand(4, generator=generator, dtype=torch.float64)
    together = sample_tokens(logits, draws, settings)
    alone = [sample_tokens(logits[i : i + 1], draws[i : i + 1], settings[i : i + 1]) for i in range(4)]
    assert together[0].tolist() == [tokens.item() for tokens, _ in alone]
    torch.testing.assert_close(together[1], torch.cat([logprobs for _, logprobs in alone]))
    assert together[0][0] == logits[0].argmax()


def test_logprobs_are_those_of_the_temperature_alone() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    tokens, logprobs = sample_tokens(
        logits, torch.tensor([0.999], dtype=torch.float64), [SamplingParams(temperature=0.5, top_k=1)]
    )
    assert tokens.item() == 0
    assert logprobs.item() == pytest.approx(float(torch.log_softmax(logits / 0.5, -1)[0, 0]))


def test_sampled_frequencies_fit_the_softmax() -> None:
    logits = torch.randn(1, 20, generator=torch.Generator().manual_seed(2))
    num_draws = 20_000
    draws = torch.from_numpy(uniforms(range(num_draws), [0] * num_draws))
    tokens, _ = sample_tokens(logits.expand(num_draws, -1), draws, [SamplingParams(temperature=0.7)] * num_draws)
    counts = torch.bincount(tokens, minlength=20).numpy()
    expected = (logits[0].double() / 0.7).softmax(-1).numpy() * num_draws
    assert stats.chisquare(counts, expected).pvalue > 0.01
