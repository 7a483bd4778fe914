"""The bits that results rest on: SplitMix64 against its published outputs, every draw against what it always gave."""

import hashlib

import numba
import numpy as np
import pytest

from cluster.contracts.hashing import (
    are_hashes_drawn,
    blake2b_128,
    derived_seed,
    is_document_drawn,
    is_prompt_drawn,
    mix64,
    mix64_int,
    order_key,
    splitmix64,
    unit_interval,
)

HASHES = np.random.default_rng(0).integers(0, 2**64, 100_000, dtype=np.uint64)
# The first outputs of SplitMix64: for seed 0 as in the tests of Java's SplittableRandom and of xoshiro's authors, for
# 1234567 as on Rosetta Code ("Pseudo-random numbers/Splitmix64").
PUBLISHED = {
    0: [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B],
    1234567: [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ],
}


@pytest.mark.parametrize("seed", PUBLISHED)
def test_splitmix64_gives_its_published_outputs(seed: int) -> None:
    assert splitmix64(np.uint64(seed), np.arange(5, dtype=np.uint64)).tolist() == PUBLISHED[seed]


def test_python_numpy_and_compiled_code_mix_alike() -> None:
    expected = [mix64_int(x) for x in HASHES[:1000].tolist()]
    assert mix64(HASHES[:1000]).tolist() == expected
    compiled = numba.njit(mix64)
    assert [int(compiled(x)) for x in HASHES[:1000]] == expected
    assert mix64_int(2**64 + 5) == mix64_int(5)


def test_unit_interval_keeps_53_bits_and_never_reaches_1() -> None:
    assert unit_interval(np.uint64(2**64 - 1)) == 1 - 2.0**-53
    assert unit_interval(np.uint64(2**63)) == 0.5
    assert numba.njit(unit_interval)(np.uint64(2**62 + 2047)) == 0.25


def _bits(drawn: list[bool]) -> int:
    return int("".join(str(int(is_drawn)) for is_drawn in drawn), 2)


def test_draws_give_what_they_gave_when_the_artifacts_in_use_were_made() -> None:
    texts = [f"text {number}" for number in range(64)]
    hashes = np.arange(1, 65, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert _bits([is_document_drawn(text, fraction=0.3, seed=5) for text in texts]) == 0x742815874A368756
    assert _bits([is_prompt_drawn(text, fraction=0.3, seed=5) for text in texts]) == 0x1430812613C6920
    assert _bits(are_hashes_drawn(hashes, fraction=0.3, seed=5).tolist()) == 0x6242A641DA803B1
    assert derived_seed("ppo", 3, "row", 17) == 9009137428232397120
    assert order_key(7, "a b", "c d") == hashlib.sha256(b"7\na b\nc d").digest()


def test_the_share_is_the_fraction_within_sampling_error() -> None:
    for fraction in (0.01, 0.3, 0.9):
        share = are_hashes_drawn(HASHES, fraction=fraction, seed=0).mean()
        assert abs(share - fraction) < 5 * np.sqrt(fraction * (1 - fraction) / len(HASHES))


def test_none_and_all_are_exact() -> None:
    assert not are_hashes_drawn(HASHES, fraction=0.0, seed=3).any()
    assert are_hashes_drawn(HASHES, fraction=1.0, seed=3).all()
    for draw in (is_document_drawn, is_prompt_drawn):
        assert not any(draw(f"p{i}", fraction=0.0, seed=0) for i in range(100))
        assert all(draw(f"p{i}", fraction=1.0, seed=0) for i in range(100))


def test_a_larger_fraction_contains_a_smaller_one_and_seeds_are_independent() -> None:
    small, large = (are_hashes_drawn(HASHES, fraction=f, seed=1) for f in (0.1, 0.4))
    assert not (small & ~large).any()
    other = are_hashes_drawn(HASHES, fraction=0.4, seed=2)
    assert abs((large & other).mean() - 0.16) < 0.01


def test_sequential_hashes_are_drawn_evenly_too() -> None:
    drawn = are_hashes_drawn(np.arange(100_000, dtype=np.uint64), fraction=0.5, seed=0)
    assert abs(drawn.mean() - 0.5) < 0.01


def test_derived_seeds_differ_between_parts_and_stay_the_same() -> None:
    seeds = {derived_seed(0, update, place, s) for update in range(9) for place in range(9) for s in range(9)}
    assert len(seeds) == 9**3
    assert derived_seed(1, "heldout", 2, 3) == derived_seed(1, "heldout", 2, 3) < 2**63


def test_halves_of_a_128_bit_hash_are_those_of_its_big_endian_digest() -> None:
    high, low = blake2b_128([b"abc", b""])
    digest = hashlib.blake2b(b"abc", digest_size=16).digest()
    assert (int(high[0]), int(low[0])) == (int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big"))
    assert len(high) == 2
