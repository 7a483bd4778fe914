"""Columns over whole, sliced, chunked and empty arrays."""

import numpy as np
import pyarrow as pa
import pytest

from dataprep.text.column import TextColumn
from tests.unit.dataprep.text import slow_twins
from tests.unit.dataprep.text.test_words import pieces


def test_lines_equal_splitlines_on_random_texts() -> None:
    texts = [
        *slow_twins.random_texts(5, 200, longest=80),
        "",
        "\n",
        "\n\n",
        "a\r\n",
        "a\r\r\nb",
        "\x0b\x0c\x1c\x85",
        "é\u2028",
    ]
    column = TextColumn(pa.array(texts, pa.large_string()))
    for d, text in enumerate(texts):
        assert pieces(column, column.lines, d) == text.splitlines()
    lines = [line for text in texts for line in text.splitlines()]
    assert column.lines.num_chars.tolist() == [len(line) for line in lines]
    assert len(set(column.lines.hashes.tolist())) == len(set(lines))


def test_characters_are_counted_by_code_point() -> None:
    texts = ["", "abc", "é語🙂"]
    assert TextColumn(pa.array(texts, pa.large_string())).num_chars_D.tolist() == [0, 3, 3]


def test_a_slice_is_viewed_in_place_and_split_like_a_copy() -> None:
    texts = slow_twins.random_texts(6, 20)
    whole = pa.array(texts, pa.large_string())
    sliced, copied = TextColumn(whole[5:12]), TextColumn(pa.array(texts[5:12], pa.large_string()))
    assert sliced.data.ctypes.data == TextColumn(whole).data.ctypes.data
    assert sliced.num_bytes == copied.num_bytes
    for d in range(7):
        assert pieces(sliced, sliced.words, d) == pieces(copied, copied.words, d)
        assert pieces(sliced, sliced.lines, d) == texts[5 + d].splitlines()
    assert sliced.terms.hashes.tolist() == copied.terms.hashes.tolist()


@pytest.mark.parametrize(
    "texts",
    [
        pa.array([], pa.large_string()),
        pa.chunked_array([], pa.large_string()),
        pa.array([], pa.string()),
        pa.array(["a b"], pa.large_string())[1:],
    ],
)
def test_no_documents(texts: pa.Array) -> None:
    column = TextColumn(texts)
    assert len(column) == column.num_bytes == len(column.words.starts) == len(column.lines.starts) == 0
    assert column.words.doc_offsets.tolist() == [0]


def test_chunks_and_32_bit_offsets_are_taken() -> None:
    chunked = pa.chunked_array([["a b"], [], ["c"]], pa.string())
    assert TextColumn(chunked).words.counts_D().tolist() == [2, 1]


def test_nulls_and_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="1 nulls"):
        TextColumn(pa.array(["a", None], pa.large_string()))
    with pytest.raises(ValueError, match="int64"):
        TextColumn(pa.array([1]))


def test_filter_keeps_texts_and_known_word_counts() -> None:
    column = TextColumn(pa.array(["a b", "c", "d e f"], pa.large_string()))
    assert column.filter(np.array([True, True, True])) is column
    assert column.num_words_D.tolist() == [2, 1, 3]
    left = column.filter(np.array([True, False, True]))
    assert left.texts.to_pylist() == ["a b", "d e f"]
    assert left.num_words_D.tolist() == [2, 3]
    assert "words" not in left.__dict__
