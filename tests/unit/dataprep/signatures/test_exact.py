"""The 128-bit text hash against its definition."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from dataprep.signatures import exact
from dataprep.text.column import TextColumn
from tests.unit.dataprep.text import slow_twins


def hashes(*texts: str) -> list[tuple[int, int]]:
    high, low = exact.text_hashes(TextColumn(pa.array(texts, pa.large_string())))
    assert high.dtype == low.dtype == np.uint64
    return list(zip(high.tolist(), low.tolist(), strict=True))


def slow_hash(text: str) -> tuple[int, int]:
    normalised = " ".join("".join(c.lower()[0] for c in text).split())
    digest = hashlib.blake2b(normalised.encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


def test_hashes_equal_their_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["", " ", "ȺȾȺȾ", "İ", "\U0001d49c\U00020000", *slow_twins.random_texts(21, 100)]
    expected = [slow_hash(text) for text in texts]
    assert hashes(*texts) == expected
    monkeypatch.setattr(exact, "_BATCH_BYTES", 100)
    assert hashes(*texts) == expected


def test_case_and_white_space_do_not_count_but_all_else_does() -> None:
    assert len(set(hashes("Ab  c", " ab\nC\t", "AB\u00a0c"))) == 1
    assert len(set(hashes("ab c", "abc", "ab, c", "áb c", "ab c ab c"))) == 5


def test_slices_and_no_documents() -> None:
    texts = pa.array(["x", "a", "b"], pa.large_string())
    high, _ = exact.text_hashes(TextColumn(texts[1:]))
    assert high.tolist() == [pair[0] for pair in hashes("a", "b")]
    assert hashes() == []
