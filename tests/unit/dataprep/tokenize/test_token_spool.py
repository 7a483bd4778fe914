"""A shard's tokens on their way through files: the same bytes as from memory, and little of it held."""

import io
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from cluster.contracts.tokens import write_token_shard
from dataprep.tokenize import token_spool
from dataprep.tokenize.token_spool import ChunkedSink, TokenSpool


def written(spool: TokenSpool, order: np.ndarray) -> bytes:
    sink = io.BytesIO()
    lengths = spool.lengths_D[order]
    with spool.in_order(order) as (tokens, mapping):
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        write_token_shard(ChunkedSink(sink, mapping), tokens, offsets, order, ["s"] * len(order))  # type: ignore[arg-type]
    return sink.getvalue()


@pytest.mark.parametrize("chunk_bytes", [7, 8 << 20])
def test_the_bytes_are_those_of_a_shard_made_in_memory(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    monkeypatch.setattr(token_spool, "CHUNK_BYTES", chunk_bytes)
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 30, 500)
    documents = [rng.integers(0, 1000, length).astype(np.uint32) for length in lengths]
    spool = TokenSpool(np.dtype(np.uint32))
    for first in range(0, 500, 64):
        batch = slice(first, first + 64)
        spool.add(np.concatenate(documents[batch]), lengths[batch])
    order = rng.permutation(500)
    expected = io.BytesIO()
    offsets = np.concatenate([[0], np.cumsum(lengths[order])])
    write_token_shard(expected, np.concatenate([documents[d] for d in order]), offsets, order, ["s"] * 500)
    assert written(spool, order) == expected.getvalue()


def test_memory_does_not_grow_with_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(io.RawIOBase):
        largest = total = 0

        def write(self, data: memoryview) -> int:  # type: ignore[override]
            self.largest, self.total = max(self.largest, len(data)), self.total + len(data)
            return len(data)

        def tell(self) -> int:
            return self.total

    monkeypatch.setattr(token_spool, "CHUNK_BYTES", 1 << 20)
    batch = np.zeros(500_000, np.uint16)  # 1 MB
    spool, sink = TokenSpool(batch.dtype), Counting()
    in_arrow = pa.total_allocated_bytes()
    tracemalloc.start()
    for _ in range(64):
        spool.add(batch, np.full(500, 1000))
    order = np.arange(64 * 500)[::-1].copy()
    with spool.in_order(order) as (tokens, mapping):
        offsets = np.arange(64 * 500 + 1) * 1000
        write_token_shard(ChunkedSink(sink, mapping), tokens, offsets, order, "s3://bucket/" + 300 * "x")  # type: ignore[arg-type]
        assert pa.total_allocated_bytes() - in_arrow < 4 << 20
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sink.total > 64 * 10**6
    assert sink.largest <= 1 << 20
    assert peak < 8 << 20, "64 MB of tokens; what is held is of the documents, not their tokens"
