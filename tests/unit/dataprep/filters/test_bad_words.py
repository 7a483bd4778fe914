"""Bad words: C4's rule by hand and against its regular expression."""

import random
import re
from pathlib import Path

import pyarrow as pa
import pytest

from cluster.contracts.errors import InputError
from dataprep.filters.bad_words import BadWords
from dataprep.filters.config import BadWordsSettings
from dataprep.text.column import TextColumn
from tests.unit.dataprep.text import slow_twins

ANY = BadWordsSettings(files=("-",))


def counts(words: list[str], *texts: str) -> list[int]:
    column = TextColumn(pa.array(texts, pa.large_string()))
    return BadWords(words).judge(column, ANY).scores["num_bad_words"].astype(int).tolist()


def test_words_count_whole_and_in_any_case() -> None:
    assert counts(["ass"], "An Ass.", "class assess", "ass", "ass-ass ASS", "as", "_ass", "") == [1, 0, 1, 3, 0, 0, 0]
    assert counts(["übel"], "ÜBEL übel Grübeln") == [2]


def test_phrases_and_the_longest_of_several() -> None:
    assert counts(["bad", "bad apple", "apple pie"], "a bad apple pie", "bad apples", "bad") == [1, 1, 1]
    assert counts(["b.a.d"], "so b.a.d!", "b.a.d.s", "bxaxd") == [1, 1, 0]


def test_scripts_without_spaces_need_no_border() -> None:
    assert counts(["悪い", "เลว"], "これは悪いことだ", "คนเลวมาก", "悪くない") == [1, 1, 0]
    assert counts(["bad"], "これはbadだ", "これはbadly") == [1, 0]


def test_counts_agree_with_c4s_regular_expression() -> None:
    words = ["the", "of the", "re", "ab", "a b", "x-y", "é"]
    pattern = re.compile(r"(?:\W|^)({})(?:\W|$)".format("|".join(map(re.escape, words))))
    rng = random.Random(5)
    pieces = ["the", "of", "re", "ab", "a", "b", "x-y", "é", "there", " ", " ", "\n", ".", "-", "É", "The"]
    texts = ["".join(rng.choices(pieces, k=rng.randint(1, 12))) for _ in range(600)]
    texts += [text for text in slow_twins.random_texts(3, 200) if not any(map(slow_twins.is_unspaced, text))]
    found = counts(words, *texts)
    assert [count > 0 for count in found] == [pattern.search(text.lower()) is not None for text in texts]
    assert 100 < sum(count > 0 for count in found) < len(texts) - 100


def test_a_share_is_spared_by_the_hash_of_the_text() -> None:
    texts = pa.array([f"bad text number {n}" for n in range(2000)] + ["fine"], pa.large_string())
    spared = ANY.model_copy(update={"keep_fraction": 0.25})
    first = BadWords(["bad"]).judge(TextColumn(texts), spared).codes_D
    assert 420 <= (first[:-1] == 0).sum() <= 580  # 500, four standard deviations either way
    assert first[-1] == 0
    backwards = BadWords(["bad"]).judge(TextColumn(texts.take(pa.array(range(2000, -1, -1)))), spared).codes_D
    assert backwards.tolist() == first[::-1].tolist()
    other = BadWords(["bad"]).judge(TextColumn(texts), spared.model_copy(update={"seed": 1})).codes_D
    assert 600 < (other != first).sum() < 900


def test_some_can_be_allowed_and_empty_lists_are_refused(tmp_path: Path) -> None:
    column = TextColumn(pa.array(["bad bad", "bad bad bad"], pa.large_string()))
    allowed = ANY.model_copy(update={"max_bad_words": 2})
    assert BadWords(["bad"]).judge(column, allowed).codes_D.tolist() == [0, 1]
    (tmp_path / "words.txt").write_text("# nothing\n")
    with pytest.raises(InputError, match="lists no words"):
        BadWords.read(BadWordsSettings(files=(str(tmp_path / "words.txt"),)))
