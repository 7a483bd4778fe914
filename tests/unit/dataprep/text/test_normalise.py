"""Normal form against its twin and by hand."""

import re
import unicodedata

import pyarrow as pa
import pytest

from dataprep.text.normalise import normalise, repair_mojibake
from tests.unit.dataprep.text import slow_twins


def one(text: str) -> str:
    return normalise(pa.array([text], pa.large_string()))[0].as_py()


def slow(text: str) -> str:
    text = "\n".join(text.splitlines())
    out = []
    for c in text:
        if c in "\n\t":
            out.append(c)
        elif c.isspace():
            out.append(" ")
        elif unicodedata.category(c) != "Cc" and c not in "\u00ad\u200b\u2060\ufeff":
            out.append(c)
    lines = [line.rstrip() for line in "".join(out).split("\n")]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return unicodedata.normalize("NFC", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb\rc\u2028d\x85e", "a\nb\nc\nd\ne"),
        ("a\x00\x07b\u200bc\ufeff\u00add", "abcd"),
        ("a\u00a0b\u3000c\td", "a b c\td"),
        ("  a \n\n \n\n  b\t\n", "a\n\n  b"),
        ("e\u0301 \u212b", "é Å"),
        ("e\u200b\u0301", "é"),
        ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e"),
        ("", ""),
        (" \n\t ", ""),
    ],
)
def test_each_step(text: str, expected: str) -> None:
    assert one(text) == expected


def test_random_texts_equal_their_twin_and_stay_when_normalised_again() -> None:
    texts = [f"\x00{text}\u200b \x0b" for text in slow_twins.random_texts(31, 300, oddities=0.4)]
    once = normalise(pa.array(texts, pa.large_string()))
    assert once.to_pylist() == [slow(text) for text in texts]
    assert normalise(once) is once


def test_texts_in_normal_form_are_not_copied() -> None:
    texts = pa.array(["a b\n\n  c", "é", ""], pa.large_string())
    assert normalise(texts) is texts
    assert normalise(texts[1:]).to_pylist() == ["é", ""]
    assert len(normalise(texts[:0])) == 0


def test_slices_are_normalised_like_copies() -> None:
    texts = pa.array(["x ", "a\r\nb ", "e\u0301"], pa.large_string())
    assert normalise(texts[1:]).to_pylist() == ["a\nb", "é"]


def test_mojibake_is_repaired_and_sound_text_left_alone() -> None:
    sound = ["schön und größer", "naïve café", "日本語", "", "plain"]
    broken = [text.encode().decode("windows-1252") for text in ("schön und größer", "it’s fine")]
    repaired = repair_mojibake(pa.array([*sound, *broken], pa.large_string())).to_pylist()
    assert repaired == [*sound, "schön und größer", "it’s fine"]
