"""Language identification on clear cases and on the edges of its input rule."""

import pyarrow as pa
import pytest

from dataprep.filters.language import UNKNOWN, identify

SENTENCES = {
    "en": "The committee will meet again on Thursday to discuss the budget.",
    "de": "Der Ausschuss trifft sich am Donnerstag wieder, um den Haushalt zu besprechen.",
    "fr": "La commission se réunira de nouveau jeudi pour discuter du budget.",
    "ru": "Комитет снова соберётся в четверг, чтобы обсудить бюджет.",
    "ja": "委員会は木曜日に再び集まり、予算について話し合います。",
    "zh": "委员会将于星期四再次开会讨论预算。",
    "th": "คณะกรรมการจะประชุมอีกครั้งในวันพฤหัสบดีเพื่อหารือเรื่องงบประมาณ",
}


def test_clear_sentences_are_named() -> None:
    labels, scores = identify(pa.array(list(SENTENCES.values()), pa.large_string()))
    assert labels.to_pylist() == list(SENTENCES)
    assert scores.min() > 0.6
    assert scores.max() <= 1.0


def test_blank_texts_are_undetermined() -> None:
    labels, scores = identify(pa.array(["", " \n\n\t", SENTENCES["en"]], pa.large_string()))
    assert labels.to_pylist() == [UNKNOWN, UNKNOWN, "en"]
    assert scores[:2].tolist() == [0.0, 0.0]


def test_line_breaks_count_as_spaces() -> None:
    broken = [SENTENCES["de"].replace(" ", "\n"), SENTENCES["de"]]
    _, scores = identify(pa.array(broken, pa.large_string()))
    assert scores[0] == scores[1]


def test_only_the_first_characters_count_and_none_is_cut_in_two() -> None:
    russian = SENTENCES["ru"]
    texts = pa.array([russian + " " + SENTENCES["en"] * 9, russian], pa.large_string())
    labels, scores = identify(texts, num_characters=len(russian))
    assert labels.to_pylist() == ["ru", "ru"]
    assert scores[0] == scores[1]


def test_slices_are_judged_like_copies_and_no_documents_give_none() -> None:
    texts = pa.array(list(SENTENCES.values()), pa.large_string())
    labels, _ = identify(texts[2:4])
    assert labels.to_pylist() == ["fr", "ru"]
    assert len(identify(texts[:0])[0]) == 0


def test_no_characters_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1; got 0"):
        identify(pa.array(["a"], pa.large_string()), num_characters=0)
