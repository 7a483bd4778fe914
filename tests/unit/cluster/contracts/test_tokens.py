"""Token shards come back as they were written, without copies."""

from pathlib import Path

import numpy as np
import pytest

from cluster.contracts.commit import WrittenFile
from cluster.contracts.errors import CorruptArtifact, InputError
from cluster.contracts.tokens import (
    ShardEntry,
    TokenShard,
    open_shards,
    read_token_index,
    token_dtype,
    write_token_index,
    write_token_shard,
)


def _write(path: Path, documents: list[list[int]], dtype: type) -> None:
    lengths = [len(d) for d in documents]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.array([t for d in documents for t in d], dtype=dtype)
    with open(path, "wb") as sink:
        write_token_shard(sink, tokens, offsets, np.arange(len(documents), dtype=np.int64), ["web"] * len(documents))


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_documents_round_trip_as_views_of_the_mapped_file(tmp_path: Path, dtype: type) -> None:
    documents = [[1, 2, 3], [], [65535]]
    _write(tmp_path / "a.arrow", documents, dtype)
    shard = TokenShard(str(tmp_path / "a.arrow"))
    assert [shard.document(i).tolist() for i in range(len(shard))] == documents
    assert shard.tokens_T.dtype == dtype
    assert not shard.tokens_T.flags.owndata
    assert shard.sources_D.to_pylist() == ["web"] * 3


def test_the_index_finds_shards_and_keeps_heldout_ones_apart(tmp_path: Path) -> None:
    entries = []
    for name, heldout in (("a.arrow", False), ("b.arrow", True)):
        _write(tmp_path / name, [[1, 2]], np.uint16)
        entries.append(ShardEntry(name, (tmp_path / name).stat().st_size, "0" * 64, 1, 2, heldout))
    write_token_index(str(tmp_path), entries)
    assert read_token_index(str(tmp_path)) == entries
    assert [s.uri[-7:] for s in open_shards(str(tmp_path), heldout=True)] == ["b.arrow"]
    assert entries[0].file == WrittenFile("a.arrow", entries[0].size, "0" * 64)


def test_rows_of_the_index_are_ranges_also_of_shards_elsewhere_and_may_be_repeated(tmp_path: Path) -> None:
    for directory in ("tokens", "mixture"):
        (tmp_path / directory).mkdir()
    _write(tmp_path / "tokens" / "a.arrow", [[1], [2, 3], [4, 5, 6]], np.uint16)
    size = (tmp_path / "tokens" / "a.arrow").stat().st_size
    rows = [ShardEntry("a.arrow", size, "", n, 0, first_document=f, directory="../tokens") for f, n in ((1, 2), (0, 1))]
    write_token_index(str(tmp_path / "mixture"), [*rows, rows[0]])
    views = open_shards(str(tmp_path / "mixture"), heldout=False)
    assert [view.tokens_T.tolist() for view in views] == [[2, 3, 4, 5, 6], [1], [2, 3, 4, 5, 6]]
    assert [view.document(len(view) - 1).tolist() for view in views] == [[4, 5, 6], [1], [4, 5, 6]]
    assert not views[0].tokens_T.flags.owndata
    assert views[0].doc_ids_D.tolist() == [1, 2]
    with pytest.raises(CorruptArtifact, match="has 3 documents; its index names 2 to 4"):
        TokenShard(str(tmp_path / "tokens" / "a.arrow")).part(2, 2)


def test_a_cut_shard_and_an_absent_index_are_refused(tmp_path: Path) -> None:
    _write(tmp_path / "a.arrow", [[1, 2]], np.uint16)
    size = (tmp_path / "a.arrow").stat().st_size
    write_token_index(str(tmp_path), [ShardEntry("a.arrow", size, "", 1, 2)])
    (tmp_path / "a.arrow").write_bytes(b"cut")
    with pytest.raises(CorruptArtifact, match="3 bytes"):
        read_token_index(str(tmp_path))
    with pytest.raises(CorruptArtifact, match="not a token shard"):
        TokenShard(str(tmp_path / "a.arrow"))
    with pytest.raises(InputError, match="no tokens artifact"):
        read_token_index(str(tmp_path / "elsewhere"))


def test_offsets_that_do_not_span_the_tokens_are_refused(tmp_path: Path) -> None:
    with open(tmp_path / "a", "wb") as sink, pytest.raises(ValueError, match="span all tokens"):
        write_token_shard(sink, np.zeros(3, np.uint16), np.array([0, 2]), np.array([0]), ["x"])


def test_the_smallest_dtype_that_fits_is_chosen() -> None:
    assert token_dtype(1 << 16) == np.uint16
    assert token_dtype((1 << 16) + 1) == np.uint32
