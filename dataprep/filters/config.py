"""The thresholds of the filter families, with the published defaults. `None` turns a rule off.

Kept apart from the kernels so that a job spec is checked without loading Numba.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from cluster.contracts.config import ReferenceFiles, StrictModel
from dataprep.config import MAX_INT, Count, Fraction, Text

WORD = re.compile(r"[a-z0-9]+")  # of a URL
_NO_DOMAIN = re.compile(r"[\s/:*?#@]")
_MIN_PHRASE_BYTES = 2  # C4's phrases are looked for by their first two


def domain_of(entry: str) -> str:
    """The host name that an entry of a list of domains stands for. Raises `ValueError` where it is none."""
    domain = entry.removeprefix("*.").strip(".")
    if not domain or _NO_DOMAIN.search(domain):
        raise ValueError(f"{entry!a} is no domain; give a host name like example.org")
    return domain


class FamilySettings(StrictModel):
    """What every family has."""

    mode: Literal["filter", "annotate"] = "filter"
    """`filter` drops documents and cuts lines. `annotate` drops and cuts nothing, and stores the scores with the
    documents.
    """


class UrlBlocklistSettings(FamilySettings):
    """Pages of listed sites, or with listed words in their URL. Documents without a URL pass."""

    domains: tuple[Text, ...] = ()
    """Host names to drop, each with all its subdomains, as in [example.org]."""

    domain_files: Annotated[tuple[str, ...], ReferenceFiles()] = ()
    """Files of such host names, one a line; `#` begins a comment. Their content counts in the fingerprint, not their
    place.
    """

    words: tuple[Text, ...] = ()
    """Words to drop pages by: a run of letters and digits in the URL that equals one of them, whatever the case."""

    word_files: Annotated[tuple[str, ...], ReferenceFiles()] = ()
    """Files of such words, one a line; `#` begins a comment."""

    @field_validator("domains")
    @classmethod
    def _are_domains(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [entry for entry in value if _is_refused(entry)]
        if wrong:
            raise ValueError(f"{', '.join(map(ascii, wrong))}: no domain; give host names like example.org")
        return value

    @field_validator("words")
    @classmethod
    def _are_words(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [entry for entry in value if not WORD.fullmatch(entry.lower())]
        if wrong:
            raise ValueError(f"{', '.join(map(ascii, wrong))}: no word; give letters a to z and digits alone")
        return value


def _is_refused(entry: str) -> bool:
    try:
        domain_of(entry.lower())
    except ValueError:
        return True
    return False


class GopherQualitySettings(FamilySettings):
    """Gopher's quality rules (Rae et al. 2021, arXiv:2112.11446, appendix A.1)."""

    min_doc_words: Count | None = 50
    """Fewest words that a document must have, not counting words made of symbols alone. `null` turns the rule off."""

    max_doc_words: Count | None = 100_000
    """Most words that a document may have, not counting words made of symbols alone. `null` turns the rule off."""

    min_avg_word_length: Annotated[float, Field(ge=0)] | None = 3.0
    """Least mean length of a word in characters, not counting words made of symbols alone. Scripts without spaces are
    exempt. `null` turns the rule off.
    """

    max_avg_word_length: Annotated[float, Field(ge=0)] | None = 10.0
    """Greatest mean length of a word in characters, counted likewise. `null` turns the rule off."""

    max_symbol_word_ratio: Annotated[float, Field(ge=0)] | None = 0.1
    """Most `#` characters per word, and most ellipses (... or …) per word; either one drops the document. `null` turns
    both off.
    """

    max_bullet_lines_fraction: Fraction | None = 0.9
    """Largest share of lines that begin with a bullet (•) or a dash. `null` turns the rule off."""

    max_ellipsis_lines_fraction: Fraction | None = 0.3
    """Largest share of lines that end with an ellipsis. `null` turns the rule off."""

    min_alpha_words_fraction: Fraction | None = 0.8
    """Smallest share of words that have a letter in them. `null` turns the rule off."""

    min_stop_words: Count | None = 2
    """Fewest different stop words that must occur. Scripts without spaces are exempt. `null` turns the rule off."""

    stop_words: tuple[Text, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")
    """The stop words, in the case in which they must occur. Replace them in a profile for another language."""


class GopherRepetitionSettings(FamilySettings):
    """Gopher's repetition rules (Rae et al. 2021, arXiv:2112.11446, table A1)."""

    max_duplicate_paragraph_fraction: Fraction | None = 0.3
    """Largest share of paragraphs that occurred before in the document. `null` turns the rule off."""

    max_duplicate_paragraph_char_fraction: Fraction | None = 0.2
    """Largest share of characters that stand in paragraphs that occurred before. `null` turns the rule off."""

    max_duplicate_line_fraction: Fraction | None = 0.3
    """Largest share of lines that occurred before in the document. `null` turns the rule off."""

    max_duplicate_line_char_fraction: Fraction | None = 0.2
    """Largest share of characters that stand in lines that occurred before. `null` turns the rule off."""

    max_top_ngram_char_fraction: dict[int, Fraction] = Field(default={2: 0.20, 3: 0.18, 4: 0.16})
    """n (2 to 4) to the largest share of characters that the most frequent n-gram of words may make up. An n left out
    is not checked.
    """

    max_duplicate_ngram_char_fraction: dict[int, Fraction] = Field(
        default={5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
    )
    """n (5 to 10) to the largest share of characters in n-grams of words that occurred before. An n left out is not
    checked.
    """

    @field_validator("max_top_ngram_char_fraction")
    @classmethod
    def _top_sizes(cls, value: dict[int, float]) -> dict[int, float]:
        if not set(value) <= {2, 3, 4}:
            raise ValueError(f"n must be 2, 3 or 4; got {sorted(value)}")
        return value

    @field_validator("max_duplicate_ngram_char_fraction")
    @classmethod
    def _duplicate_sizes(cls, value: dict[int, float]) -> dict[int, float]:
        if not set(value) <= set(range(5, 11)):
            raise ValueError(f"n must be 5 to 10; got {sorted(value)}")
        return value


class C4Settings(FamilySettings):
    """C4's line and page rules (Raffel et al. 2020, section 2.2, and its published code)."""

    require_terminal_punctuation: bool = False
    """Whether lines are cut that do not end in a full stop, question mark, exclamation mark or straight quote, or that
    end in an ellipsis of dots. C4 does this; it is off by default, as FineWeb has it.
    """

    remove_citations: bool = True
    """Whether [1], [], [edit] and [citation needed] are cut out of lines."""

    min_words_per_line: Count | None = 3
    """Fewest words, between white space, of a line that stays. `null` turns the rule off."""

    max_word_length: Count | None = 1000
    """Longest word, in characters, of a line that stays. `null` turns the rule off."""

    cut_javascript_lines: bool = True
    """Whether lines that mention javascript are cut."""

    policy_phrases: tuple[Text, ...] = (
        "terms of use",
        "privacy policy",
        "cookie policy",
        "uses cookies",
        "use of cookies",
        "use cookies",
    )
    """Lines that hold one of these phrases are cut, whatever the case of A to Z. An empty list turns the rule off."""

    drop_lorem_ipsum: bool = True
    """Whether documents are dropped that hold lorem ipsum in a line that the earlier rules kept."""

    drop_curly_bracket: bool = True
    """Whether documents are dropped that hold an opening curly bracket in a line that the earlier rules kept. Pages
    about programming often hold one.
    """

    min_num_sentences: Count | None = 5
    """Fewest sentences in the lines that stay, else the document is dropped. `null` turns the rule off."""

    @field_validator("policy_phrases")
    @classmethod
    def _long_enough(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        short = [phrase for phrase in value if len(phrase.encode()) < _MIN_PHRASE_BYTES]
        if short:
            raise ValueError(f"{', '.join(map(ascii, short))}: too short; a phrase has two bytes or more")
        return value


class FineWebSettings(FamilySettings):
    """FineWeb's own quality rules (Penedo et al. 2024, arXiv:2406.17557, section 3.6)."""

    min_punctuated_lines_fraction: Fraction | None = 0.12
    """Smallest share of lines that end in a sentence-ending character. `null` turns the rule off."""

    keep_unpunctuated: bool = False
    """Whether documents are kept in which no line at all ends in such a character."""

    max_short_lines_fraction: Fraction | None = 0.67
    """Largest share of lines of `short_line_length` characters or fewer. `null` turns the rule off."""

    short_line_length: Count = 30
    """Characters up to which a line counts as short."""

    max_duplicate_line_char_fraction: Fraction | None = 0.01
    """Largest share of characters that stand in lines that occurred before. `null` turns the rule off."""

    max_newlines_per_word: Annotated[float, Field(ge=0)] | None = 0.3
    """Most line breaks per word, which finds lists. `null` turns the rule off."""


class RefinedWebSettings(FamilySettings):
    """RefinedWeb's line-wise corrections (Penedo et al. 2023, arXiv:2306.01116, appendix G.2).

    The paper gives the rules and the 5%; the shares, word lists and phrases are those of its examples. Lines are cut,
    and documents that lose too much are dropped.
    """

    max_uppercase_fraction: Fraction | None = 0.5
    """Largest share of a line's characters that may be capitals; lines with more are cut. `null` turns the rule off."""

    cut_numeric_lines: bool = True
    """Whether lines of digits alone are cut."""

    counter_words: tuple[Text, ...] = (
        "likes",
        "shares",
        "comments",
        "replies",
        "retweets",
        "reposts",
        "views",
        "followers",
        "downloads",
        "votes",
    )
    """Lines that are a number and one of these words (3 likes) are cut. An empty list turns the rule off."""

    min_words_per_line: Count | None = 2
    """Fewest words, between white space, of a line that stays. `null` turns the rule off."""

    short_line_words: Count = 10
    """Words up to which a line counts as short and may lose the phrases below."""

    start_phrases: tuple[Text, ...] = ("sign-in", "sign in")
    """Phrases cut from the start of short lines."""

    end_phrases: tuple[Text, ...] = ("read more...", "read more…")
    """Phrases cut from the end of short lines."""

    inner_phrases: tuple[Text, ...] = ("items in cart",)
    """Phrases cut from anywhere in short lines, one of them from a line."""

    max_cut_words_fraction: Fraction | None = 0.05
    """Largest share of its words that a document may lose to these rules before it is dropped. `null` drops none."""


class Mc4Settings(FamilySettings):
    """mC4's rule (Xue et al. 2021, arXiv:2010.11934, section 3.1): enough long lines."""

    min_long_lines: Count = 3
    """Fewest long lines that a document must have."""

    long_line_characters: Count = 200
    """Characters from which a line counts as long."""


class BadWordsSettings(FamilySettings):
    """C4's bad-words rule (Raffel et al. 2020, section 2.2), with a list of your own: none is shipped."""

    files: Annotated[tuple[str, ...], ReferenceFiles(), Field(min_length=1)]
    """Files of words and phrases, one a line; `#` begins a comment. Raymill ships no list. The files' content counts in
    the fingerprint, not their place.
    """

    max_bad_words: Count = 0
    """Most occurrences of any of them that a document may have."""

    keep_fraction: Fraction = 0.0
    """Share of the documents with more that are kept all the same, chosen by a hash of their text, as FineWeb does. 0
    drops all of them.
    """

    seed: Count = 0
    """Chooses which documents that share is made of."""


class QualitySettings(FamilySettings):
    """What a trained classifier says (Li et al. 2024, arXiv:2406.11794, section 4.4)."""

    min_probability: Fraction = 0.5
    """Least probability, from the classifier, that a document is a good one; documents below are dropped."""


class DecontaminationSettings(FamilySettings):
    """Passages that documents share with evaluation sets (Brown et al. 2020, arXiv:2005.14165, appendix C)."""

    files: Annotated[tuple[str, ...], ReferenceFiles(), Field(min_length=1)]
    """The evaluation sets: JSON Lines, or text with a paragraph an item; plain, .gz, .bz2 or .zst. Passages with more
    numbers than words are not looked for. The files' content counts in the fingerprint, not their place.
    """

    fields: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Fields of a JSON row that are looked for. `null` looks for every string in it."""

    ngram: Annotated[int, Field(ge=1, le=MAX_INT)] = 13
    """Words in a row that make an overlap, 13 as in GPT-3's paper. Fewer find more, and more by chance. With fewer than
    `min_terms` nothing is looked for, so lower that too.
    """

    min_terms: Annotated[int, Field(ge=1, le=MAX_INT)] = 8
    """Fewest words of an item that is shorter than `ngram` and is looked for whole. Still shorter items occur
    everywhere and are left out. It is at most `ngram`, or nothing is looked for.
    """

    action: Literal["drop", "cut"] = "drop"
    """`drop` drops the document; `cut` cuts the passages out of it."""


class FilterFamilies(StrictModel):
    """The filters that may differ by language, in the order in which they run. None turns a family off."""

    language_threshold: Fraction = 0.65
    """Least confidence of the language model in a document's language; documents below it are dropped. 0 keeps all."""

    gopher_repetition: GopherRepetitionSettings | None = GopherRepetitionSettings()
    """Gopher's repetition rules, on by default. `null` turns them off."""

    gopher_quality: GopherQualitySettings | None = GopherQualitySettings()
    """Gopher's quality rules, on by default. `null` turns them off."""

    c4: C4Settings | None = C4Settings()
    """C4's line and page rules, on by default. `null` turns them off."""

    refinedweb: RefinedWebSettings | None = None
    """RefinedWeb's line-wise corrections. `null`, the default, turns them off; {} turns them on as published."""

    mc4: Mc4Settings | None = None
    """The rule of mC4 on long lines. `null`, the default, turns it off; {} turns it on as published."""

    fineweb: FineWebSettings | None = None
    """FineWeb's own quality rules. `null`, the default, turns them off; {} turns them on as published."""

    bad_words: BadWordsSettings | None = None
    """C4's bad-words rule, with a list of your own. `null`, the default, turns it off."""


class LanguageProfile(FilterFamilies):
    """Other filter settings for some languages; what a profile does not set is as for the others."""

    languages: Annotated[list[str], Field(min_length=1)]
    """Language codes that this profile is for, as in [zh, ja]. A language stands in one profile at most."""
