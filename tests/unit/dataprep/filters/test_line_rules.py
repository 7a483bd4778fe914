"""RefinedWeb's line corrections and mC4's rule, by hand and against a slow twin."""

import random
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dataprep.filters.config import Mc4Settings, RefinedWebSettings
from dataprep.filters.mc4 import mc4
from dataprep.filters.refinedweb import refinedweb
from dataprep.text.column import TextColumn
from tests.unit.dataprep.text import slow_twins

LOOSE: dict[str, Any] = {
    "max_uppercase_fraction": None, "cut_numeric_lines": False, "counter_words": (), "min_words_per_line": None,
    "start_phrases": (), "end_phrases": (), "inner_phrases": (), "max_cut_words_fraction": None,
}  # fmt: skip


def column_of(*texts: str) -> TextColumn:
    return TextColumn(pa.array(texts, pa.large_string()))


def left(text: str, **settings: Any) -> str:
    column = column_of(text)
    judged = refinedweb(column, RefinedWebSettings(**{**LOOSE, **settings}))
    assert judged.kept is not None
    return str(judged.kept.edited(column).texts.to_pylist()[0])


def test_lines_mainly_in_capitals_go() -> None:
    assert left("ABCd\nABcd\nABC é", max_uppercase_fraction=0.5) == "ABcd"
    assert left("ÀÉ\n日本\n\nx", max_uppercase_fraction=0.5) == "日本\n\nx"


def test_lines_of_digits_alone_go() -> None:
    assert left("12 3\n1,2\n٣٤\n1a\n-", cut_numeric_lines=True) == "1,2\n1a\n-"


def test_counters_go() -> None:
    words = ("likes", "shares")
    assert left("3 likes\n 1.2K  Shares\n1,024 likes", counter_words=words) == ""
    kept = "likes\n3 like\n3 likes it\nthree likes\n3likes\n3 4"
    assert left(kept, counter_words=words) == kept


def test_lines_of_one_word_go_but_not_those_of_unspaced_scripts() -> None:
    assert left("one\ntwo words\n!\n日本語の文章", min_words_per_line=2) == "two words\n日本語の文章"


def test_phrases_go_from_short_lines_alone() -> None:
    phrases: dict[str, Any] = {"start_phrases": ("sign-in",), "end_phrases": ("read more...",), "short_line_words": 4}
    assert left("Sign-in to see", **phrases) == "to see"
    assert left("And so. Read More...\nb", **phrases) == "And so. \nb"
    assert (
        left("a sign-in\nread more... b\nsign-ins are many", **phrases)
        == "a sign-in\nread more... b\nsign-ins are many"
    )
    assert left("sign-in to see the rest", **phrases) == "sign-in to see the rest"
    assert left("x\n sign-in read more... \ny", **phrases) == "x\ny"
    assert (
        left("x\nhas 2 items in cart now\nyitems in cart", inner_phrases=("items in cart",))
        == "x\nhas 2  now\nyitems in cart"
    )


def test_documents_that_lose_too_much_are_dropped() -> None:
    column = column_of("a b c d e f g h i\nx", "a b c\nx", "", "a b c")
    judged = refinedweb(column, RefinedWebSettings(**{**LOOSE, "min_words_per_line": 2, "max_cut_words_fraction": 0.1}))
    assert judged.codes_D.tolist() == [0, 1, 0, 0]
    assert judged.scores["cut_words_fraction"].tolist()[:2] == [0.1, 0.25]
    assert judged.scores["cut_lines_fraction"].tolist()[:2] == [0.5, 0.5]
    assert np.isnan(judged.scores["cut_words_fraction"][2])


def slow_refinedweb(text: str, settings: RefinedWebSettings) -> tuple[str, float]:
    """(the text after the cuts, share of words cut)."""
    kept, gone, total = [], 0, 0
    for line in text.splitlines():
        words = line.split()
        total += len(words)
        inside = line.strip()
        capitals = sum(c.isupper() for c in inside)
        unspaced = any(slow_twins.is_unspaced(c) for c in inside)
        counter = re.fullmatch(r"[0-9][0-9.,]*[kmb]?\s+(.+)", inside.lower())
        if words and (
            capitals / len(inside) > (settings.max_uppercase_fraction or 0)
            or (len(words) < (settings.min_words_per_line or 0) and not unspaced)
            or re.fullmatch(r"[\d\s]+", inside)
            or (len(words) == 2 and counter and counter[1] in settings.counter_words)
        ):
            gone += len(words)
            continue
        if 0 < len(words) <= settings.short_line_words:
            before = gone
            for phrase in settings.start_phrases:
                if inside.lower().startswith(phrase) and not re.match(r"[^\W_]", inside[len(phrase) :]):
                    inside, gone = inside[len(phrase) :], gone + len(phrase.split())
            for phrase in settings.inner_phrases:
                halves = re.split(rf"(?<![^\W_]){phrase}(?![^\W_])", inside, maxsplit=1, flags=re.IGNORECASE)
                if len(halves) == 2:
                    inside, gone = "".join(halves), gone + len(phrase.split())
            if gone > before:
                if not inside.strip():
                    continue
                line = inside
        kept.append(line)
    result = "\n".join(kept).strip() if gone else text
    return result, gone / total if total else 0.0


def test_random_lines_are_cut_like_by_the_twin() -> None:
    rng = random.Random(9)
    pieces = [
        "Sign-in",
        "sign-in",
        "items in cart",
        "The",
        "THE",
        "CAT",
        "3",
        "1,2k",
        "likes",
        "Likes",
        "a",
        "é",
        "日本",
        "\n",
        "\n",
    ]
    texts = [
        "".join(piece + rng.choice(["", " ", " "]) for piece in rng.choices(pieces, k=rng.randint(0, 25)))
        for _ in range(500)
    ]
    settings = RefinedWebSettings(start_phrases=("sign-in",), end_phrases=(), short_line_words=5)
    column = column_of(*texts)
    judged = refinedweb(column, settings)
    assert judged.kept is not None
    expected = [slow_refinedweb(text, settings) for text in texts]
    assert judged.kept.edited(column).texts.to_pylist() == [text for text, _ in expected]
    assert np.nan_to_num(judged.scores["cut_words_fraction"]).tolist() == pytest.approx(
        [share for _, share in expected]
    )
    assert judged.codes_D.tolist() == [int(share > 0.05) for _, share in expected]
    assert 50 < judged.codes_D.sum() < 450


def test_mc4_counts_long_lines() -> None:
    settings = Mc4Settings(min_long_lines=2, long_line_characters=4)
    column = column_of("éééé\nabc\n\nabcd", "abcd\nabc", "", "abcd\nabcd\nabcde")
    judged = mc4(column, settings)
    assert judged.codes_D.tolist() == [0, 1, 1, 0]
    assert judged.scores["num_long_lines"].tolist() == [2, 1, 0, 3]
