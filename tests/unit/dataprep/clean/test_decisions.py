"""How the rules of a clean stage come together: order, views, profiles by language, and annotation."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from dataprep.clean.config import CleanConfig
from dataprep.clean.decisions import DocumentFilter
from dataprep.filters.config import FilterFamilies
from dataprep.filters.families import SCORE_TYPES

ENGLISH = "The committee met in May and agreed that the bridge over the river should be built with care. "
PLAIN = "Committees met in May, since bridges over rivers need repairs soon, say engineers from several towns nearby."
GERMAN = "Der Ausschuss trat am Montag zusammen und beschloss, dass die Brücke gebaut werden soll, und zwar bald. "
FRENCH = "La commission se réunira de nouveau jeudi pour discuter du budget, et pour décider de la suite. "
OFF = {name: None for name in FilterFamilies.model_fields if name != "language_threshold"}


def config(**settings: Any) -> CleanConfig:
    return CleanConfig(inputs=["unused"], **{**OFF, "language_threshold": 0.5, **settings})


def array(*texts: str) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


def test_the_url_comes_before_all_else() -> None:
    document_filter = DocumentFilter(config(url_blocklist={"domains": ["bad.example"]}, languages=["de"]))
    decisions = document_filter.judge(
        array(ENGLISH, ENGLISH, GERMAN), ["https://x.bad.example/", None, "https://good.example"]
    )
    assert decisions.reasons_D.tolist() == ["url_domain", "language", ""]


def test_later_families_see_what_the_editing_ones_left() -> None:
    text = f"{ENGLISH}\nbadword is here\n{ENGLISH}cookie policy badword"
    assert DocumentFilter(config(mc4={"min_long_lines": 3, "long_line_characters": 5})).judge(array(text)).keep_D.all()
    cutting: dict[str, Any] = {"c4": {"min_num_sentences": 0, "min_words_per_line": 4}}
    document_filter = DocumentFilter(config(**cutting, mc4={"min_long_lines": 2, "long_line_characters": 5}))
    assert document_filter.judge(array(text)).reasons_D.tolist() == ["too_few_long_lines"]
    decisions = DocumentFilter(config(**cutting)).judge(array(text))
    assert decisions.kept.texts.to_pylist() == [ENGLISH.strip()]


def test_a_text_whose_lines_are_all_cut_is_dropped() -> None:
    document_filter = DocumentFilter(config(c4={"min_num_sentences": None, "min_words_per_line": 4}))
    decisions = document_filter.judge(array("The committee met.\nIt agreed today.", ENGLISH))
    assert decisions.reasons_D.tolist() == ["nothing_left", ""]
    assert decisions.kept.texts.to_pylist() == [ENGLISH.strip()]


def test_documents_go_to_the_profile_of_their_language_and_keep_their_order() -> None:
    profiles = {
        "germanic": {"languages": ["de", "nl"], "gopher_quality": {"stop_words": ["der", "und", "die"]}},
        "french": {"languages": ["fr"], "gopher_quality": None, "c4": {"min_num_sentences": 4}},
    }
    settings = config(gopher_quality={"min_doc_words": 15, "min_stop_words": 2}, profiles=profiles)
    german = settings.profiles["germanic"].gopher_quality
    assert german is not None
    assert (german.min_doc_words, german.min_stop_words) == (15, 2), "what a profile does not set is as for the others"
    texts = array(GERMAN * 2, ENGLISH * 2, FRENCH * 4, PLAIN, FRENCH, GERMAN[:60] + ".", "und der die")
    decisions = DocumentFilter(settings).judge(texts)
    assert decisions.reasons_D.tolist()[:6] == [
        "", "", "", "gopher_enough_stop_words", "too_few_sentences", "gopher_short_doc"
    ]  # fmt: skip
    assert [text[:10] for text in decisions.kept.texts.to_pylist()] == [GERMAN[:10], ENGLISH[:10], FRENCH[:10]]


def test_a_profile_has_its_own_language_threshold() -> None:
    strict = {"strict": {"languages": ["de"], "language_threshold": 1.0}}
    texts = array(GERMAN[:20], ENGLISH)
    assert DocumentFilter(config(language_threshold=0.0)).judge(texts).keep_D.tolist() == [True, True]
    decisions = DocumentFilter(config(language_threshold=0.0, profiles=strict)).judge(texts)
    assert decisions.reasons_D.tolist() == ["language_score", ""]


def test_a_resolved_config_loads_again_to_the_same() -> None:
    settings = config(
        c4={"min_num_sentences": 7}, profiles={"a": {"languages": ["zh"], "c4": {"min_words_per_line": 1}}}
    )
    assert settings.profiles["a"].c4 is not None
    assert settings.profiles["a"].c4.min_num_sentences == 7
    assert CleanConfig.model_validate(settings.model_dump(mode="json")) == settings


def test_a_language_in_two_profiles_is_refused() -> None:
    with pytest.raises(ValidationError, match="de stands in more than one"):
        config(profiles={"a": {"languages": ["de"]}, "b": {"languages": ["fr", "de"]}})


def test_annotating_keeps_and_cuts_nothing_and_stores_what_the_rules_would_read() -> None:
    families: dict[str, Any] = {
        "gopher_repetition": {}, "gopher_quality": {}, "c4": {}, "refinedweb": {}, "mc4": {}, "fineweb": {}
    }  # fmt: skip
    texts = [ENGLISH, "short", f"{ENGLISH}\ncookie policy", "We use cookies {", GERMAN * 3, ENGLISH * 40]
    noted = DocumentFilter(
        config(
            language_threshold=0.0,
            url_blocklist={"words": ["a"], "mode": "annotate"},
            **{name: {"mode": "annotate"} for name in families},
        )
    ).judge(array(*texts), ["https://x.net/a"] * 6)
    assert noted.keep_D.all()
    assert noted.kept.texts.to_pylist() == texts
    assert set(noted.annotations) == {*families, "url_blocklist"}
    for name, column in noted.annotations.items():
        assert column.type == SCORE_TYPES[name]
        assert len(column) == len(texts)
    assert noted.annotations["url_blocklist"].to_pylist() == [{"blocked_domain": 0, "blocked_words": 1}] * 6
    scores = {name: column.to_pylist() for name, column in noted.annotations.items()}
    filtered = DocumentFilter(config(language_threshold=0.0, gopher_quality={})).judge(array(*texts))
    too_short = [row["num_words"] < 50 for row in scores["gopher_quality"]]
    assert [reason == "gopher_short_doc" for reason in filtered.reasons_D] == too_short
    assert [row["curly_bracket_lines"] for row in scores["c4"]] == [0, 0, 0, 1, 0, 0]
    assert scores["c4"][2]["cut_lines_fraction"] == 0.5


def test_annotations_stay_with_their_documents_through_drops_and_profiles() -> None:
    settings = config(
        gopher_quality={"mode": "annotate"},
        c4={"min_num_sentences": 2},
        profiles={"de": {"languages": ["de"], "gopher_quality": None, "mc4": {"mode": "annotate"}}},
    )
    texts = array(ENGLISH, ENGLISH * 3, GERMAN * 3, ENGLISH * 2)
    decisions = DocumentFilter(settings).judge(texts)
    assert decisions.reasons_D.tolist() == ["too_few_sentences", "", "", ""]
    words = [row and row["num_words"] for row in decisions.annotations["gopher_quality"].to_pylist()]
    assert words == [18 * 3, None, 18 * 2]
    assert decisions.annotations["mc4"].to_pylist() == [None, {"num_long_lines": 1.0}, None]
    assert settings.annotated_families() == ["gopher_quality", "mc4"]


def test_no_texts_at_all_have_columns_of_no_scores() -> None:
    decisions = DocumentFilter(config(c4={"mode": "annotate"})).judge(array())
    assert len(decisions.annotations["c4"]) == len(decisions.kept) == 0
    assert np.array_equal(decisions.keep_D, [])
