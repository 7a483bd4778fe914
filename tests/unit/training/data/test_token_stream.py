"""A store of any size is opened by its index, read piecewise, and held in bounded memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks.token_store import StoreSize, document_lengths, make_store
from cluster.contracts.errors import CorruptArtifact
from cluster.contracts.tokens import ShardEntry, read_token_index, write_token_index, write_token_shard
from training.data.sampler import TokenSampler
from training.data.token_stream import StoredTokens, TokenStream

DOCUMENTS = [[3, 1, 0, 6], [], [9], [2, 2, 11, 1, 0]]  # lengths, by shard


def small_store(directory: Path) -> list[ShardEntry]:
    """Shards whose tokens are their positions in the stream."""
    entries, position = [], 0
    for number, lengths in enumerate(DOCUMENTS):
        offsets = np.cumsum([0, *lengths]).astype(np.int64)
        tokens_T = np.arange(position, position + offsets[-1], dtype=np.uint16)
        path = directory / f"{number}.arrow"
        with open(path, "wb") as sink:
            write_token_shard(sink, tokens_T, offsets, np.arange(len(lengths)), ["x"] * len(lengths))
        half = len(lengths) // 2  # two rows of the index each
        for first, last in ((0, half), (half, len(lengths))):
            num_tokens = int(offsets[last] - offsets[first])
            size = path.stat().st_size
            entries.append(ShardEntry(path.name, size, "", last - first, num_tokens, first_document=first))
        position += int(offsets[-1])
    write_token_index(str(directory), entries)
    return entries


def test_any_part_of_the_stream_can_be_read_over_rows_and_shards(tmp_path: Path) -> None:
    stream = StoredTokens(str(tmp_path), small_store(tmp_path), random_reads=True)
    total = sum(map(sum, DOCUMENTS))
    assert stream.num_tokens == total
    for start in range(total):
        for count in range(1, total - start + 3):
            stream.will_need(start, count)
            assert stream.read(start, count).tolist() == list(range(start, min(start + count, total)))


def test_documents_are_found_by_where_they_begin(tmp_path: Path) -> None:
    stream = StoredTokens(str(tmp_path), small_store(tmp_path), random_reads=False)
    lengths = [length for shard in DOCUMENTS for length in shard]
    documents = [(sum(lengths[:d]), length) for d, length in enumerate(lengths) if length]
    for start in range(stream.num_tokens):
        for stop in range(start, stream.num_tokens + 1):
            begins_D, lengths_D = stream.documents(start, stop)
            found = list(zip(begins_D.tolist(), lengths_D.tolist(), strict=True))
            assert found == [(begin, length) for begin, length in documents if start <= begin < stop]


def test_opening_reads_no_shard_and_a_bad_one_is_named_when_it_is_read(tmp_path: Path) -> None:
    entries = small_store(tmp_path)
    path = tmp_path / "2.arrow"
    path.write_bytes(bytes(path.stat().st_size))
    stream = StoredTokens(str(tmp_path), read_token_index(str(tmp_path)), random_reads=True)
    assert stream.read(0, 10).tolist() == list(range(10))
    with pytest.raises(CorruptArtifact, match=r"2\.arrow is not a token shard"):
        stream.read(9, 5)
    path.write_bytes(b"cut")
    with pytest.raises(CorruptArtifact, match="has 3 bytes; its index says"):
        stream.read(9, 5)
    wrong = [ShardEntry(**{**vars(entry), "num_tokens": entry.num_tokens + 1}) for entry in entries]
    with pytest.raises(CorruptArtifact, match="tokens where its index says"):
        StoredTokens(str(tmp_path), wrong, random_reads=True).read(0, 3)


def test_the_shards_of_a_part_of_the_stream_are_known_without_opening_them(tmp_path: Path) -> None:
    stream = StoredTokens(str(tmp_path), small_store(tmp_path), random_reads=False)
    total = stream.num_tokens
    named = lambda *spans: [entry.name for entry in stream.shards(spans).values()]  # noqa: E731
    assert named((0, total)) == ["0.arrow", "2.arrow", "3.arrow"]  # 1.arrow has no tokens
    assert named((9, 10)) == ["0.arrow"]
    assert named((9, 11)) == ["0.arrow", "2.arrow"]
    assert named((20, total), (0, 1), (5, 5)) == ["3.arrow", "0.arrow"]


def test_arrays_are_a_stream_too() -> None:
    stream = TokenStream.of_arrays([np.arange(3), np.arange(3, 5)])
    assert stream.read(1, 9).tolist() == [1, 2, 3, 4]
    assert stream.documents(0, 5)[0].tolist() == [0, 3]


def test_a_store_of_240_mb_costs_a_process_a_part_of_that(tmp_path: Path) -> None:
    """Bar 7a in small: every page is touched, in shuffled order, document boundaries included."""
    make_store(tmp_path, StoreSize(num_documents=600_000, num_tokens=120_000_000, num_shards=12, rows_per_shard=3))
    process = psutil.Process()
    before = process.memory_info()
    stream = StoredTokens(str(tmp_path), read_token_index(str(tmp_path)), random_reads=True)
    sampler = TokenSampler(stream, 4096, seed=0, documents_apart=True)
    most_file = most_private = 0
    for first in range(0, sampler.num_samples, 64):
        sampler.batch(np.arange(first, min(first + 64, sampler.num_samples)))
        if first % 1024 == 0:
            after = process.memory_info()
            most_file, most_private = max(most_file, after.shared), max(most_private, after.rss - after.shared)
    assert most_file - before.shared < 90e6  # 240 MB where pages are not given back
    assert most_private - (before.rss - before.shared) < 40e6


def test_the_benchmark_draws_lengths_that_sum_up() -> None:
    lengths_D = document_lengths(1000, 1_000_000, seed=1)
    assert (len(lengths_D), lengths_D.sum()) == (1000, 1_000_000)
    assert lengths_D.min() >= 0
    assert 0.8 < np.log(lengths_D[lengths_D > 0]).std() < 1.2
