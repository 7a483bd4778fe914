"""Each filter family against its twin on random texts, and by hand at its thresholds."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from dataprep.filters import c4 as c4_filter
from dataprep.filters import fineweb as fineweb_filter
from dataprep.filters import gopher_quality as quality_filter
from dataprep.filters import gopher_repetition as repetition_filter
from dataprep.filters.config import (
    C4Settings,
    FilterFamilies,
    FineWebSettings,
    GopherQualitySettings,
    GopherRepetitionSettings,
)
from dataprep.filters.families import SCORE_TYPES
from dataprep.filters.scores import Judged
from dataprep.text.column import TextColumn
from tests.unit.dataprep.filters import slow_filters
from tests.unit.dataprep.text import slow_twins

LOOSE_QUALITY = GopherQualitySettings(
    min_doc_words=None, min_avg_word_length=None, max_avg_word_length=None, max_symbol_word_ratio=None,
    max_bullet_lines_fraction=None, max_ellipsis_lines_fraction=None, min_alpha_words_fraction=None,
    min_stop_words=None,
)  # fmt: skip
LOOSE_REPETITION = GopherRepetitionSettings(
    max_duplicate_paragraph_fraction=None, max_duplicate_paragraph_char_fraction=None,
    max_duplicate_line_fraction=None, max_duplicate_line_char_fraction=None,
    max_top_ngram_char_fraction={}, max_duplicate_ngram_char_fraction={},
)  # fmt: skip
LOOSE_C4 = C4Settings(min_num_sentences=None, min_words_per_line=None)
LOOSE_FINEWEB = FineWebSettings(
    min_punctuated_lines_fraction=None, max_short_lines_fraction=None, max_duplicate_line_char_fraction=None,
    max_newlines_per_word=None,
)  # fmt: skip


def column_of(*texts: str) -> TextColumn:
    return TextColumn(pa.array(texts, pa.large_string()))


def reasons_of(judged: Judged) -> list[str]:
    return ["keep" if code == 0 else judged.reasons[code - 1] for code in judged.codes_D.tolist()]


def edited(judged: Judged, column: TextColumn) -> list[str]:
    assert judged.kept is not None
    return judged.kept.edited(column).texts.to_pylist()


def quality(*texts: str, **settings: Any) -> list[str]:
    judged = quality_filter.gopher_quality(column_of(*texts), LOOSE_QUALITY.model_copy(update=settings))
    return reasons_of(judged)


def repetition(*texts: str, **settings: Any) -> list[str]:
    judged = repetition_filter.gopher_repetition(column_of(*texts), LOOSE_REPETITION.model_copy(update=settings))
    return reasons_of(judged)


def c4(*texts: str, **settings: Any) -> list[str]:
    """The texts as edited, or the reason in angle brackets."""
    column = column_of(*texts)
    result = c4_filter.c4(column, LOOSE_C4.model_copy(update=settings))
    pairs = zip(edited(result, column), reasons_of(result), strict=True)
    return [text if reason == "keep" else f"<{reason}>" for text, reason in pairs]


def fineweb(*texts: str, **settings: Any) -> list[str]:
    judged = fineweb_filter.fineweb(column_of(*texts), LOOSE_FINEWEB.model_copy(update=settings))
    return reasons_of(judged)


SHIFTED_QUALITY = GopherQualitySettings(
    min_doc_words=20, max_doc_words=250, min_avg_word_length=3.4, max_avg_word_length=4.6, max_symbol_word_ratio=0.03,
    max_bullet_lines_fraction=0.1, max_ellipsis_lines_fraction=0.05, min_alpha_words_fraction=0.75,
)  # fmt: skip
EASY_QUALITY = GopherQualitySettings(min_doc_words=5, min_alpha_words_fraction=0.7, min_stop_words=1)
NGRAMS_ONLY = GopherRepetitionSettings(
    max_duplicate_line_char_fraction=None,
    max_top_ngram_char_fraction={3: 0.1},
    max_duplicate_ngram_char_fraction={6: 0.2, 10: 0.01},
)
# Kernel, its settings, its twin, and how many different decisions the random texts lead to at least.
Family = tuple[Any, Any, Callable[[str, Any], str], int]
FAMILIES: list[Family] = [
    (quality_filter.gopher_quality, EASY_QUALITY, slow_filters.gopher_quality, 5),
    (quality_filter.gopher_quality, SHIFTED_QUALITY, slow_filters.gopher_quality, 8),
    (repetition_filter.gopher_repetition, GopherRepetitionSettings(), slow_filters.gopher_repetition, 8),
    (repetition_filter.gopher_repetition, NGRAMS_ONLY, slow_filters.gopher_repetition, 4),
    (fineweb_filter.fineweb, FineWebSettings(max_duplicate_line_char_fraction=0.1), slow_filters.fineweb, 5),
]
C4_SETTINGS = [
    C4Settings(),
    LOOSE_C4,
    C4Settings(require_terminal_punctuation=True, min_words_per_line=2),
    C4Settings(remove_citations=False, max_word_length=12, drop_lorem_ipsum=False, drop_curly_bracket=False),
]


@pytest.mark.parametrize(("kernel", "settings", "twin", "variety"), FAMILIES)
def test_every_family_decides_like_its_twin_on_random_texts(
    kernel: Any, settings: Any, twin: Callable[[str, Any], str], variety: int
) -> None:
    texts = ["", " ", "\n", "\n\n", *slow_twins.random_texts(11, 500, oddities=0.25)]
    decided = reasons_of(kernel(column_of(*texts), settings))
    assert decided == [twin(text, settings) for text in texts]
    assert len(Counter(decided)) >= variety


def test_repetition_in_unspaced_scripts_is_decided_like_by_the_twin() -> None:
    rng = random.Random(15)
    letters = "日本語の文章は、กขค x9"
    parts = [rng.choices(letters, k=rng.randint(1, 14)) for _ in range(500)]
    texts = ["".join(part * rng.randint(1, 4) + rng.choices(letters, k=rng.randint(0, 60))) for part in parts]
    settings = LOOSE_REPETITION.model_copy(
        update={
            "max_top_ngram_char_fraction": {2: 0.8, 4: 0.5},
            "max_duplicate_ngram_char_fraction": {5: 0.5, 6: 0.3, 8: 0.01},
        }
    )
    decided = reasons_of(repetition_filter.gopher_repetition(column_of(*texts), settings))
    assert decided == [slow_filters.gopher_repetition(text, settings) for text in texts]
    assert len(Counter(decided)) >= 5


@pytest.mark.parametrize("settings", C4_SETTINGS)
def test_c4_edits_like_its_twin_on_random_texts(settings: C4Settings) -> None:
    texts = ["", "\n", " [1] \n[2]", *slow_twins.random_texts(12, 400, oddities=0.1)]
    column = column_of(*texts)
    result = c4_filter.c4(column, settings)
    expected = [slow_filters.c4(text, settings) for text in texts]
    assert reasons_of(result) == [reason for reason, _ in expected]
    assert edited(result, column) == [text for _, text in expected]


def test_scores_are_what_the_rules_read() -> None:
    text = "- The cat, the cat! # ...\n- A {dog}\nprivacy policy\n- A {dog}"
    column = column_of(text, "日本語")
    scores = quality_filter.measure(column, GopherQualitySettings())
    assert [scores[name][0] for name in quality_filter.SCORES] == [
        10, pytest.approx(33 / 10), 1 / 21, 1 / 21, 3 / 4, 1 / 4, 10 / 21, 1
    ]  # fmt: skip
    assert np.isnan(scores["mean_word_length"][1])
    assert np.isnan(scores["num_stop_words"][1])
    repeated = repetition_filter.measure(column)
    assert repeated["duplicate_line_fraction"][0] == 1 / 4
    assert repeated["duplicate_line_char_fraction"][0] == 9 / len(text)
    assert repeated["top_3_gram_char_fraction"][0] == pytest.approx(2 * len("- A {") / len(text))
    lines = c4_filter.c4(column, C4Settings()).scores
    assert [lines[name][0] for name in c4_filter.SCORES] == [4, 1 / 4, 0, 2, 3]
    short = fineweb_filter.measure(column, FineWebSettings())
    assert [short[name][0] for name in fineweb_filter.SCORES] == [4, 1 / 4, 1, 9 / (len(text) - 3), 3 / 21]
    assert scores.struct_array().to_pylist()[1]["num_stop_words"] is None


def test_c4_counts_the_words_that_are_left() -> None:
    column = column_of(*slow_twins.random_texts(13, 200))
    kept = c4_filter.c4(column, LOOSE_C4).kept
    assert kept is not None
    left = kept.edited(column)
    assert left.num_words_D.tolist() == TextColumn(left.texts).words.counts_D().tolist()


@pytest.mark.parametrize("family", [quality, repetition, c4, fineweb])
def test_no_documents_give_no_decisions(family: Callable[..., list[str]]) -> None:
    assert family() == []


def test_slices_are_decided_like_copies() -> None:
    texts = slow_twins.random_texts(14, 60)
    whole = pa.array(texts, pa.large_string())
    sliced, copied = TextColumn(whole[7:50]), column_of(*texts[7:50])
    for kernel, settings, _, _ in FAMILIES:
        assert reasons_of(kernel(sliced, settings)) == reasons_of(kernel(copied, settings))
    settings = C4Settings()
    assert edited(c4_filter.c4(sliced, settings), sliced) == edited(c4_filter.c4(copied, settings), copied)


class TestGopherQuality:
    def test_document_length_leaves_symbols_out(self) -> None:
        assert quality("a b c", "a b - c", "a b -", min_doc_words=3) == ["keep", "keep", "gopher_short_doc"]
        assert quality("a b c", "a b c .", "a b c d", max_doc_words=3) == ["keep", "keep", "gopher_long_doc"]

    def test_average_length_is_in_code_points_of_words_that_are_no_symbols(self) -> None:
        below, above = "gopher_below_avg_threshold", "gopher_above_avg_threshold"
        assert quality("éé ! éééé", "éé éé", min_avg_word_length=3.0) == ["keep", below]
        assert quality("aaa aaa", "aaa aaaa", max_avg_word_length=3.0) == ["keep", above]

    def test_unspaced_scripts_are_exempt_from_length_and_stop_words(self) -> None:
        assert quality("日本語の文章", min_avg_word_length=3.0, min_stop_words=2) == ["keep"]
        assert quality("日 two words here", min_stop_words=2) == ["gopher_enough_stop_words"]

    def test_symbol_ratio_limits_hashes_and_ellipses_apart(self) -> None:
        nine = "a " * 9
        assert quality(nine + "#", nine + "##", max_symbol_word_ratio=0.1) == ["keep", "gopher_too_many_hashes"]
        many = "gopher_too_many_ellipsis"
        assert quality(nine + "...", nine + "...#…", nine + "…… b", max_symbol_word_ratio=0.1) == ["keep", many, many]

    def test_bullets_and_ellipses_are_fractions_of_lines(self) -> None:
        bullets = "- a\n • b\nc\n-d"
        assert quality(bullets, max_bullet_lines_fraction=0.75) == ["keep"]
        assert quality(bullets, max_bullet_lines_fraction=0.74) == ["gopher_too_many_bullets"]
        ellipses = "a... \nb…\nc\nd"
        assert quality(ellipses, max_ellipsis_lines_fraction=0.5) == ["keep"]
        assert quality(ellipses, max_ellipsis_lines_fraction=0.49) == ["gopher_too_many_end_ellipsis"]

    def test_words_with_a_letter(self) -> None:
        text = "a é 3 x2"
        assert quality(text, min_alpha_words_fraction=0.75) == ["keep"]
        assert quality(text, min_alpha_words_fraction=0.76) == ["gopher_below_alpha_threshold"]

    def test_stop_words_must_differ_and_have_the_listed_case(self) -> None:
        lacks = "gopher_enough_stop_words"
        assert quality("the of", "the the", "The of", min_stop_words=2) == ["keep", lacks, lacks]
        assert quality("và của", min_stop_words=2, stop_words=("và", "của")) == ["keep"]
        assert quality("a", min_stop_words=1, stop_words=()) == [lacks]

    def test_zero_is_a_limit_and_none_is_off(self) -> None:
        assert quality("a #", max_symbol_word_ratio=0.0) == ["gopher_too_many_hashes"]
        assert quality("a #", max_symbol_word_ratio=None) == ["keep"]


class TestGopherRepetition:
    def test_paragraphs_are_parted_by_empty_lines(self) -> None:
        text = "a\nb\n\nc\n\n\na\nb"  # three paragraphs, the last one a copy of three characters in 12
        assert repetition(text, max_duplicate_paragraph_fraction=1 / 3) == ["keep"]
        assert repetition(text, max_duplicate_paragraph_fraction=0.33) == ["dup_para_frac"]
        assert repetition(text, max_duplicate_paragraph_char_fraction=3 / 12) == ["keep"]
        assert repetition(text, max_duplicate_paragraph_char_fraction=0.24) == ["dup_para_char_frac"]

    def test_lines(self) -> None:
        text = "ab\ncd\nab\nef"
        assert repetition(text, max_duplicate_line_fraction=0.25) == ["keep"]
        assert repetition(text, max_duplicate_line_fraction=0.24) == ["dup_line_frac"]
        assert repetition(text, max_duplicate_line_char_fraction=2 / 11) == ["keep"]
        assert repetition(text, max_duplicate_line_char_fraction=0.18) == ["dup_line_char_frac"]

    def test_the_most_frequent_ngram_counts_with_its_spaces(self) -> None:
        text = "a b c a b d e"  # "a b" twice: 6 of 13 characters
        assert repetition(text, max_top_ngram_char_fraction={2: 6 / 13}) == ["keep"]
        assert repetition(text, max_top_ngram_char_fraction={2: 0.46}) == ["top_2_gram"]

    def test_of_equally_frequent_ngrams_the_first_counts(self) -> None:
        text = "a b xx yy a b xx yy"  # "a b" (3), "b xx" (4) and "xx yy" (5) twice each, of 19 characters
        assert repetition(text, max_top_ngram_char_fraction={2: 6 / 19}) == ["keep"]

    def test_duplicate_ngrams_are_stepped_over(self) -> None:
        text = "a b c d e a b c d e a b c d e"  # two copies of five characters, in 29
        assert repetition(text, max_duplicate_ngram_char_fraction={5: 10 / 29}) == ["keep"]
        assert repetition(text, max_duplicate_ngram_char_fraction={5: 0.34}) == ["duplicated_5_n_grams"]
        assert repetition(text, max_duplicate_ngram_char_fraction={10: 0.0}) == ["duplicated_10_n_grams"]
        assert repetition(text[:19], max_duplicate_ngram_char_fraction={10: 0.0}) == ["keep"]

    def test_ngrams_of_unspaced_scripts_are_of_twice_as_many_letters(self) -> None:
        text = "委員会は委員会の委員会を委員会と"  # "委員会" four times: no two-gram of four letters recurs
        assert repetition(text, max_top_ngram_char_fraction={2: 0.25}) == ["keep"]
        text = "今日は晴れ今日は雨"  # "今日は" twice, and once more than four letters only with what follows
        assert repetition(text, max_top_ngram_char_fraction={2: 4 / 9}) == ["keep"]
        assert repetition("今日晴れ雨今日晴れ", max_top_ngram_char_fraction={2: 0.88}) == ["top_2_gram"]

    def test_short_and_empty_documents(self) -> None:
        assert repetition("", "a", max_top_ngram_char_fraction={2: 0.0}) == ["gopher_repetition_empty", "keep"]
        assert repetition("a b", max_top_ngram_char_fraction={2: 0.9}) == ["top_2_gram"]

    def test_ngram_sizes_outside_the_table_are_refused(self) -> None:
        with pytest.raises(ValidationError, match="n must be 2, 3 or 4"):
            GopherRepetitionSettings(max_top_ngram_char_fraction={5: 0.1})
        with pytest.raises(ValidationError, match="n must be 5 to 10"):
            GopherRepetitionSettings(max_duplicate_ngram_char_fraction={4: 0.1})


class TestC4:
    def test_short_lines_are_cut(self) -> None:
        assert c4("one two\none two three\n a  b  c ", min_words_per_line=3) == ["one two three\na  b  c"]

    def test_lines_with_a_long_word_are_cut(self) -> None:
        assert c4("ab-cd\nabcde\nab-cde", max_word_length=5) == ["ab-cd\nabcde"]

    def test_citations_are_cut_out_of_lines(self) -> None:
        text = "Said[1] so.[citation needed] But[edit] [x] [] not[12"
        assert c4(text) == ["Said so. But [x]  not[12"]
        assert c4(text, remove_citations=False) == [text]
        assert c4("[1] [2] a\n[3]") == ["a"]

    def test_a_cut_citation_lets_the_sentence_end_show(self) -> None:
        assert c4("It is.[1] So be it", min_num_sentences=2) == ["It is. So be it"]
        assert c4("It is.[1] So be it", min_num_sentences=3) == ["<too_few_sentences>"]

    def test_terminal_punctuation(self) -> None:
        text = 'a.\nb?\nc!\n"d"\ne\'\nf\ng,\nh...\ni[1]'
        assert c4(text, require_terminal_punctuation=True) == ['a.\nb?\nc!\n"d"\ne\'']

    def test_notices_cut_lines_and_placeholders_drop_documents(self) -> None:
        assert c4("a\nEnable JavaScript!\nb", cut_javascript_lines=True) == ["a\nb"]
        assert c4("a\nour Privacy Policy\nTerms of Use\nwe use cookies") == ["a"]
        assert c4("a\nLorem Ipsum dolor", "f() {", "a") == ["<lorem_ipsum>", "<curly_bracket>", "a"]
        assert c4("{ javascript", "{ lorem ipsum") == ["", "<lorem_ipsum>"]

    def test_a_bracket_in_a_line_cut_before_does_not_drop_the_document(self) -> None:
        assert c4("{ }\none two three", min_words_per_line=3) == ["one two three"]

    def test_a_phrase_does_not_match_across_lines(self) -> None:
        assert c4("lorem\nipsum") == ["lorem\nipsum"]

    def test_sentences_are_counted_over_the_lines_kept(self) -> None:
        text = "One. Two! Three (e.g. this)?\nFour\n- ..."
        assert c4(text, min_num_sentences=5) == [text]
        assert c4(text, min_num_sentences=6) == ["<too_few_sentences>"]

    def test_a_placeholder_that_is_let_through_does_not_shield_its_line(self) -> None:
        assert c4("a\nlorem ipsum javascript", "lorem ipsum", drop_lorem_ipsum=False) == ["a", "lorem ipsum"]

    def test_phrases_of_one_byte_are_refused(self) -> None:
        with pytest.raises(ValueError, match="two bytes"):
            c4("a", policy_phrases=("x",))

    def test_a_dropped_document_stays_whole(self) -> None:
        column = column_of("a b", "{ } c")
        result = c4_filter.c4(column, LOOSE_C4)
        assert edited(result, column) == ["a b", "{ } c"]


class TestFineWeb:
    def test_punctuated_lines(self) -> None:
        text = "a.\nb\n\nc\n  \nd。"
        assert fineweb(text, min_punctuated_lines_fraction=0.5) == ["keep"]
        assert fineweb(text, min_punctuated_lines_fraction=0.51) == ["line_punct_ratio"]
        assert fineweb("a", min_punctuated_lines_fraction=0.1) == ["line_punct_ratio"]
        assert fineweb("a", min_punctuated_lines_fraction=0.1, keep_unpunctuated=True) == ["keep"]

    def test_short_lines(self) -> None:
        text = "ééé\nabcd\nabc\nab"
        assert fineweb(text, max_short_lines_fraction=0.75, short_line_length=3) == ["keep"]
        assert fineweb(text, max_short_lines_fraction=0.74, short_line_length=3) == ["short_line_ratio"]

    def test_repeated_lines_are_a_fraction_of_characters_without_line_breaks(self) -> None:
        text = "abc\nde\nabc"
        assert fineweb(text, max_duplicate_line_char_fraction=3 / 8) == ["keep"]
        assert fineweb(text, max_duplicate_line_char_fraction=0.37) == ["char_dup_ratio"]

    def test_line_breaks_per_word(self) -> None:
        assert fineweb("a\nb c\n\nd", max_newlines_per_word=0.75) == ["keep"]
        assert fineweb("a\nb c\n\nd", max_newlines_per_word=0.74) == ["list_ratio"]

    def test_blank_documents_are_empty(self) -> None:
        assert fineweb("", " \n\n") == ["fineweb_empty", "fineweb_empty"]


def test_columns_of_scores_are_called_as_their_family_is_in_a_spec() -> None:
    """By names given in the families themselves, so that renaming a module changes no artifact."""
    fields = [name for name in FilterFamilies.model_fields if name != "language_threshold"]
    assert set(SCORE_TYPES) == {*fields, "url_blocklist", "quality", "decontamination"}
    assert [name for name in SCORE_TYPES if name in fields] == fields
