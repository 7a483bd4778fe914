"""Words and terms against their twins and by hand."""

import pyarrow as pa
import pytest

from dataprep.text.column import TextColumn
from dataprep.text.spans import Spans
from dataprep.text.words import ENDS_SENTENCE, HAS_ALPHA, IS_PUNCTUATION, IS_SYMBOL, IS_UNSPACED
from tests.unit.dataprep.text import slow_twins


def column_of(*texts: str) -> TextColumn:
    return TextColumn(pa.array(texts, pa.large_string()))


def pieces(column: TextColumn, spans: Spans, document: int = 0) -> list[str]:
    data = column.data.tobytes()
    first, last = spans.doc_offsets[document], spans.doc_offsets[document + 1]
    return [data[s:e].decode() for s, e in zip(spans.starts[first:last], spans.ends[first:last], strict=True)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat, (a cat) sat.", "The|cat|,|(|a|cat|)|sat|."),
        ("Wait... what?!", "Wait|...|what|?|!"),
        ("don't it's I'd we'll John's", "do|n't|it|'s|I|'d|we|'ll|John|'s"),
        ("don’t cannot", "do|n’t|can|not"),
        ("couldn't've", "could|n't|'ve"),
        ("e.g. this, i.e., the U.S. of Dr. Who.", "e.g.|this|,|i.e.|,|the|U.S.|of|Dr.|Who|."),
        ("the USA.", "the|USA|."),
        ("state-of-the-art 3-fold 2020-01-02", "state|-|of|-|the|-|art|3|-|fold|2020|-|01|-|02"),
        ("http://a-b.org/c-d x-y@a-b.org a-b.py", "http://a-b.org/c-d|x-y@a-b.org|a-b.py"),
        ("a-b.c-D", "a|-|b.c|-|D"),
        ("key=value key=1 a/b /usr/lib", "key|=|value|key=1|a|/|b|/usr|/|lib"),
        ("$5 5€ 50% 3.14 1,000 a,b", "$|5|5|€|50|%|3.14|1,000|a|,|b"),
        ("foo.Bar foo.bar f(x)", "foo|.|Bar|foo.bar|f(x|)"),
        ("--option -x C++ +1 +a", "--option|-x|C++|+1|+|a"),
        ("____ *** ===", "_|_|_|_|*|*|*|=|=|="),
        ("日本語。ab", "日|本|語|。|ab"),
        ("กำลัง", "ก|ำ|ลั|ง"),
        ("a☃b 🙂", "a|☃|b|🙂"),
        ("a\u00a0b\u3000c\td", "a|b|c|d"),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_words_follow_the_documented_rule(text: str, expected: str) -> None:
    column = column_of(text)
    assert pieces(column, column.words) == (expected.split("|") if expected else [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat’s 3,000.50 e-mails", "the cat s 0 e mails"),
        ("Café ÉTÉ cafe\u0301", "cafe ete cafe"),
        ("abc123def4", "abc0def0"),
        ("v1. 2", "v0 0"),
        ("日本語 ab日", "日 本 語 ab 日"),
        ("한국어", "한국어"),
        ("... !!", ""),
        ("\u0301 a", "a"),
    ],
)
def test_terms_fold_case_accents_and_numbers(text: str, expected: str) -> None:
    assert slow_twins.terms(text) == expected.split()
    assert column_of(text).terms.hashes.tolist() == column_of(expected).terms.hashes.tolist()


def test_words_equal_their_twin_on_random_texts() -> None:
    texts = slow_twins.random_texts(1, 300, longest=120, oddities=0.5)
    column = column_of(*texts)
    for d, text in enumerate(texts):
        assert pieces(column, column.words, d) == slow_twins.words(text)


def test_terms_equal_their_twin_on_random_texts() -> None:
    texts = slow_twins.random_texts(2, 200, longest=120, oddities=0.5)
    column = column_of(*texts)
    hash_of: dict[str, int] = {}
    for d, text in enumerate(texts):
        hashes = column.terms.hashes[column.terms.doc_offsets[d] : column.terms.doc_offsets[d + 1]].tolist()
        expected = slow_twins.terms(text)
        assert len(hashes) == len(expected)
        for term, value in zip(expected, hashes, strict=True):
            assert hash_of.setdefault(term, value) == value
    assert len(set(hash_of.values())) == len(hash_of)


def test_words_cover_every_character_that_is_no_white_space() -> None:
    texts = slow_twins.random_texts(3, 100, oddities=0.6)
    column = column_of(*texts)
    for d, text in enumerate(texts):
        assert "".join(pieces(column, column.words, d)) == "".join(text.split())


def test_equal_words_have_equal_hashes_and_others_differ() -> None:
    column = column_of(*slow_twins.random_texts(4, 50))
    words = [word for d in range(50) for word in pieces(column, column.words, d)]
    assert len(set(zip(words, column.words.hashes.tolist(), strict=True))) == len(set(words))
    assert len(set(column.words.hashes.tolist())) == len(set(words))


def test_lengths_and_kinds() -> None:
    column = column_of("Café 3.14 -- ! ... • $ 語 ?!")
    assert pieces(column, column.words) == ["Café", "3.14", "--", "!", "...", "•", "$", "語", "?", "!"]
    assert column.words.num_chars.tolist() == [4, 4, 2, 1, 3, 1, 1, 1, 1, 1]
    punctuation = IS_SYMBOL | IS_PUNCTUATION
    end = punctuation | ENDS_SENTENCE
    assert column.words.kinds.tolist() == [
        HAS_ALPHA, 0, punctuation, end, punctuation, punctuation, IS_SYMBOL, HAS_ALPHA | IS_UNSPACED, end, end,
    ]  # fmt: skip


def test_arrays_grow_where_words_are_denser_than_expected() -> None:
    column = column_of("!" * 10_000, "a b " * 5_000, "日" * 3_000)
    assert column.words.counts_D().tolist() == [10_000, 10_000, 3_000]
    assert column.terms.counts_D().tolist() == [0, 10_000, 3_000]


def test_invalid_utf_8_neither_fails_nor_reads_past_the_end() -> None:
    offsets, data = pa.array([0, 3, 6], pa.int64()).buffers()[1], pa.py_buffer(b"a\xe2\x82b \xf0")
    column = TextColumn(pa.LargeStringArray.from_buffers(2, offsets, data))
    assert column.words.ends.max() <= 6
    assert column.terms.ends.max() <= 6
