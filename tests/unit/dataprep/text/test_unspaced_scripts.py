"""The rules about words on real text without spaces: the beginning of the Universal Declaration of Human Rights."""

import numpy as np
import pyarrow as pa
import pytest

from dataprep.filters.c4 import c4
from dataprep.filters.config import C4Settings, GopherQualitySettings, GopherRepetitionSettings
from dataprep.filters.gopher_quality import gopher_quality
from dataprep.filters.gopher_repetition import gopher_repetition
from dataprep.text.column import TextColumn

DECLARATION = {
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。"
    "人人有资格享有本宣言所载的一切权利和自由，不分种族、肤色、性别、语言、宗教、政治或其他见解、国籍或社会出身。",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。人間は、理性と良心とを"
    "授けられており、互いに同胞の精神をもって行動しなければならない。",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม และควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ",
}


def column_of(text: str) -> TextColumn:
    return TextColumn(pa.array([text], pa.large_string()))


def pieces(column: TextColumn) -> list[str]:
    spans = zip(column.words.starts, column.words.ends, strict=True)
    return [column.data[start:end].tobytes().decode() for start, end in spans]


def test_chinese_and_japanese_words_are_their_letters_and_marks() -> None:
    assert pieces(column_of(DECLARATION["zh"]))[:9] == ["人", "人", "生", "而", "自", "由", "，", "在", "尊"]
    assert pieces(column_of("データをUSBで送る。"))[:7] == ["デ", "ー", "タ", "を", "USB", "で", "送"]


def test_thai_words_are_letters_with_the_vowels_and_tones_above_and_below() -> None:
    assert pieces(column_of("มนุษย์ทั้งหลาย")) == ["ม", "นุ", "ษ", "ย์", "ทั้", "ง", "ห", "ล", "า", "ย"]


@pytest.mark.parametrize("language", DECLARATION)
def test_plain_prose_passes_gophers_rules(language: str) -> None:
    column = column_of(DECLARATION[language])
    quality = gopher_quality(column, GopherQualitySettings(min_doc_words=20))
    assert quality.codes_D.tolist() == [0]
    assert np.isnan(quality.scores["mean_word_length"][0]), "exempt"
    assert np.isnan(quality.scores["num_stop_words"][0]), "exempt"
    assert gopher_repetition(column, GopherRepetitionSettings()).codes_D.tolist() == [0]


@pytest.mark.parametrize("language", DECLARATION)
def test_c4_takes_no_line_for_a_word(language: str) -> None:
    """Nor a long one: each letter counts, so neither the least number of words nor the longest word cuts a line."""
    for text in (DECLARATION[language], DECLARATION[language] * 20):
        column = column_of(text)
        judged = c4(column, C4Settings(min_num_sentences=None))
        assert judged.codes_D.tolist() == [0]
        assert judged.kept is not None
        assert judged.kept.edited(column).texts.to_pylist() == [text]


@pytest.mark.parametrize("language", DECLARATION)
def test_prose_said_over_and_over_does_not(language: str) -> None:
    column = column_of(DECLARATION[language] * 3)
    assert gopher_repetition(column, GopherRepetitionSettings()).codes_D.tolist() != [0]
