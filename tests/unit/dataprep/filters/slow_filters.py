"""Slow, readable twins of the filter families: plain Python over one text, answering with the reason or "keep"."""

from __future__ import annotations

import re

from dataprep.filters.config import C4Settings, FineWebSettings, GopherQualitySettings, GopherRepetitionSettings
from dataprep.text.characters import SENTENCE_END, character_flags
from tests.unit.dataprep.text import slow_twins


def gopher_quality(text: str, settings: GopherQualitySettings) -> str:
    words = slow_twins.words(text)
    textual = [word for word in words if not slow_twins.is_symbol(word)]
    spaced = 2 * sum(slow_twins.is_unspaced(word) for word in words) <= len(textual)
    lines = text.splitlines()
    if settings.min_doc_words is not None and len(textual) < settings.min_doc_words:
        return "gopher_short_doc"
    if settings.max_doc_words is not None and len(textual) > settings.max_doc_words:
        return "gopher_long_doc"
    average = sum(map(len, textual)) / max(1, len(textual))
    if spaced and settings.min_avg_word_length is not None and average < settings.min_avg_word_length:
        return "gopher_below_avg_threshold"
    if spaced and settings.max_avg_word_length is not None and average > settings.max_avg_word_length:
        return "gopher_above_avg_threshold"
    if not words:
        return "gopher_enough_stop_words" if settings.min_stop_words else "keep"
    if settings.max_symbol_word_ratio is not None:
        if text.count("#") / len(words) > settings.max_symbol_word_ratio:
            return "gopher_too_many_hashes"
        if (text.count("...") + text.count("…")) / len(words) > settings.max_symbol_word_ratio:
            return "gopher_too_many_ellipsis"
    bullets = sum(line.lstrip().startswith(("•", "-")) for line in lines)
    if settings.max_bullet_lines_fraction is not None and bullets / len(lines) > settings.max_bullet_lines_fraction:
        return "gopher_too_many_bullets"
    ends = sum(line.rstrip().endswith(("...", "…")) for line in lines)
    if settings.max_ellipsis_lines_fraction is not None and ends / len(lines) > settings.max_ellipsis_lines_fraction:
        return "gopher_too_many_end_ellipsis"
    alpha = sum(any(c.isalpha() for c in word) for word in words)
    if settings.min_alpha_words_fraction is not None and alpha / len(words) < settings.min_alpha_words_fraction:
        return "gopher_below_alpha_threshold"
    stop_words = len(set(settings.stop_words) & set(words))
    if spaced and settings.min_stop_words is not None and stop_words < settings.min_stop_words:
        return "gopher_enough_stop_words"
    return "keep"


def gopher_repetition(text: str, settings: GopherRepetitionSettings) -> str:
    if not text:
        return "gopher_repetition_empty"
    num_chars = len(text)
    pairs = zip(text.splitlines(), text.splitlines(keepends=True), strict=True)
    text = "".join(line + "\n" * (line != whole) for line, whole in pairs)
    for split, name, most, most_chars in (
        (
            re.split(r"\n{2,}", text.strip()), "para",
            settings.max_duplicate_paragraph_fraction, settings.max_duplicate_paragraph_char_fraction,
        ),
        (
            re.split(r"\n+", text), "line",
            settings.max_duplicate_line_fraction, settings.max_duplicate_line_char_fraction,
        ),
    ):  # fmt: skip
        count, chars = slow_twins.duplicates(split)
        if most is not None and count / len(split) > most:
            return f"dup_{name}_frac"
        if most_chars is not None and chars / num_chars > most_chars:
            return f"dup_{name}_char_frac"
    words = slow_twins.words(text)
    unspaced = 2 * sum(slow_twins.is_unspaced(word) for word in words) > len(words)
    unit, space = (2, "") if unspaced else (1, " ")
    for n, most in sorted(settings.max_top_ngram_char_fraction.items()):
        if slow_twins.top_ngram_chars(words, unit * n, space) / num_chars > most:
            return f"top_{n}_gram"
    for n, most in sorted(settings.max_duplicate_ngram_char_fraction.items()):
        if slow_twins.duplicate_ngram_chars(words, unit * n) / num_chars > most:
            return f"duplicated_{n}_n_grams"
    return "keep"


_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")


def c4(text: str, settings: C4Settings) -> tuple[str, str]:
    """(reason or "keep", the text after the cuts)."""
    kept, sentences = [], 0
    for line in map(str.strip, text.splitlines()):
        words = c4_words(line)
        if settings.max_word_length is not None and any(len(word) > settings.max_word_length for word in words):
            continue
        if settings.remove_citations:
            line = _CITATION.sub("", line)
        terminal = line.endswith((".", "?", "!", '"', "'")) and not line.endswith("...")
        if settings.require_terminal_punctuation and not terminal:
            continue
        if settings.min_words_per_line is not None and len(words) < settings.min_words_per_line:
            continue
        if settings.drop_lorem_ipsum and "lorem ipsum" in line.lower():
            return "lorem_ipsum", text
        if settings.cut_javascript_lines and "javascript" in line.lower():
            continue
        if settings.drop_curly_bracket and "{" in line:
            return "curly_bracket", text
        if any(phrase in line.lower() for phrase in settings.policy_phrases):
            continue
        sentences += count_sentences(slow_twins.words(line))
        kept.append(line)
    if settings.min_num_sentences is not None and sentences < settings.min_num_sentences:
        return "too_few_sentences", text
    return "keep", "\n".join(kept).strip()


def c4_words(line: str) -> list[str]:
    """What stands between white space; of scripts without spaces, each letter."""
    found: list[str] = []
    for piece in line.split():
        apart = True
        for word in slow_twins.words(piece):
            unspaced = slow_twins.is_unspaced(word)
            if apart or unspaced:
                found.append(word)
            else:
                found[-1] += word
            apart = unspaced
    return found


def count_sentences(words: list[str]) -> int:
    count, ended = 1, False
    for word in words:
        if len(word) == 1 and ends_sentence(word):
            ended = True
        elif ended and any(not slow_twins.unicodedata.category(c).startswith("P") for c in word):
            count, ended = count + 1, False
    return count


def ends_sentence(character: str) -> bool:
    return ord(character) < 0x20000 and bool(character_flags()[ord(character)] & SENTENCE_END)


def fineweb(text: str, settings: FineWebSettings) -> str:
    all_lines = text.splitlines()
    lines = [line for line in all_lines if line.strip()]
    if not lines:
        return "fineweb_empty"
    punctuated = sum(ends_sentence(line[-1]) for line in lines)
    least = settings.min_punctuated_lines_fraction
    if least is not None and punctuated / len(lines) < least and not (punctuated == 0 and settings.keep_unpunctuated):
        return "line_punct_ratio"
    short = sum(len(line) <= settings.short_line_length for line in lines)
    if settings.max_short_lines_fraction is not None and short / len(lines) > settings.max_short_lines_fraction:
        return "short_line_ratio"
    repeated = slow_twins.duplicates(lines)[1] / sum(map(len, all_lines))
    most = settings.max_duplicate_line_char_fraction
    if most is not None and repeated > most:
        return "char_dup_ratio"
    breaks = len(all_lines) - (text.splitlines(keepends=True)[-1] == all_lines[-1])
    most = settings.max_newlines_per_word
    if most is not None and breaks / len(slow_twins.words(text)) > most:
        return "list_ratio"
    return "keep"
