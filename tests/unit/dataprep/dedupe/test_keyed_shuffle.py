"""The shuffle by way of the store, against a slow twin; and how a rule is divided into tasks."""

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dataprep.dedupe.config import DedupeConfig, FuzzySettings
from dataprep.dedupe.corpora import Corpora
from dataprep.dedupe.keyed_shuffle import KeyedRows, even_ranges, num_ranges_for, read_cell, write_cells
from dataprep.dedupe.match_keys import match_rules
from dataprep.dedupe.matching import _tasks
from dataprep.documents import read_signatures
from tests.unit.dataprep.small_documents import write_documents

NUM_KEYS = 3


def random_rows(seed: int, *, count: int, words: int) -> KeyedRows:
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, 2**64, (count, NUM_KEYS), np.uint64)
    keys[: count // 2, 1] = np.uint64(2**64 - 1)  # the highest key is in the last range
    return KeyedRows(keys, seed * 1000 + np.arange(count), rng.integers(0, 2**64, (count, words), np.uint64))


@pytest.mark.parametrize(("num_ranges", "words"), [(1, 2), (3, 0), (7, 2)])
def test_a_cell_holds_the_rows_of_its_key_and_range_from_all_writers(
    tmp_path: Path, num_ranges: int, words: int
) -> None:
    writers = [random_rows(seed, count=count, words=words) for seed, count in enumerate((40, 0, 13))]
    expected = defaultdict(list)
    for rows in writers:
        for keys, member, carried in zip(rows.keys_NK, rows.members_N, rows.words_NW, strict=True):
            for number, key in enumerate(keys):
                cell = number * num_ranges + int(key) * num_ranges // 2**64
                expected[cell].append((int(key), int(member), carried.tolist()))
    uris = [str(tmp_path / f"{number}.arrow") for number in range(len(writers))]
    for uri, rows in zip(uris, writers, strict=True):
        with open(uri, "wb") as sink:
            write_cells(sink, rows, even_ranges(num_ranges))
    for cell in range(NUM_KEYS * num_ranges):
        found = read_cell(uris, cell)
        rows = zip(found.keys_NK[:, 0].tolist(), found.members_N.tolist(), found.words_NW.tolist(), strict=True)
        assert sorted(rows) == sorted(expected[cell])


def test_tasks_cover_every_band_and_range_once_whatever_the_memory() -> None:
    (rule,) = match_rules(DedupeConfig(parts="clean", exact=False), num_hashes=160)
    assert (rule.num_keys, rule.num_words) == (20, 3)
    numbers = []
    for memory_bytes in (1e9, 3e6, 56_000, 10_000):
        tasks = _tasks(rule, 1000, memory_bytes=memory_bytes)
        covered = [(task.first_key + k, task.range) for task in tasks for k in range(task.num_keys)]
        num_ranges = num_ranges_for(1000, num_words=3, memory_bytes=memory_bytes)
        assert sorted(covered) == [(band, number) for band in range(20) for number in range(num_ranges)]
        assert len({task.name for task in tasks}) == len(tasks)
        numbers.append(len(tasks))
    assert numbers == [1, 1, 20, 20 * 6]


def test_a_rule_has_the_same_rows_however_a_part_is_cut(tmp_path: Path) -> None:
    uri, (shard,) = write_documents(tmp_path, [["x"] * 9])
    table = read_signatures(uri, shard, ["hash_high", "hash_low", "num_characters", "minhash"])
    path = Path(uri).parent / "f00d" / shard.parts / shard.signatures.name
    pq.write_table(table, path, row_group_size=4)
    shard = replace(shard, signatures=replace(shard.signatures, size=path.stat().st_size))
    corpora = Corpora.of((uri, [shard]), [])
    fuzzy = FuzzySettings(bands=2, rows=1)
    for rule in match_rules(DedupeConfig(parts="clean", url=True, fuzzy=fuzzy), num_hashes=2):
        rows = [
            KeyedRows.concatenated(
                [r for pack in corpora.packs(most_documents=most) for p in pack for r in rule.rows(p)]
            )
            for most in (100, 3)
        ]
        for name in KeyedRows.__dataclass_fields__:
            assert np.array_equal(getattr(rows[0], name), getattr(rows[1], name))
        assert len(rows[0].members_N) == (0 if rule.name == "url" else 9)


def test_packs_are_neighbouring_slices_of_bounded_size(tmp_path: Path) -> None:
    corpora = Corpora.of(write_documents(tmp_path, [["x"] * count for count in (3, 0, 2, 9, 1, 1)]), [])
    packs = corpora.packs(most_documents=5)
    assert [[shard_slice.num_documents for shard_slice in pack] for pack in packs] == [[3, 2], [5], [4, 1], [1]]
    assert [(shard_slice.begin_row, shard_slice.end_row) for shard_slice in (packs[1][0], packs[2][0])] == [
        (0, 5),
        (5, 9),
    ]
    assert [(pack[0].first, pack[-1].end) for pack in packs] == [(0, 5), (5, 10), (10, 15), (15, 16)]
    assert all(a[-1].end == b[0].first for a, b in pairwise(packs))
