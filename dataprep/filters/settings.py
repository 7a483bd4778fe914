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

    mode: Literal["filter", "annotate"] = Field("filter")
    """annotate: drop and cut nothing, store the scores with the documents that are kept"""


class UrlBlocklistSettings(FamilySettings):
    """Pages of listed sites, or with listed words in their URL. Documents without a URL pass."""

    domains: tuple[Text, ...] = Field(())
    """Host names, each with all its subdomains"""

    domain_files: Annotated[tuple[str, ...], ReferenceFiles()] = Field(())
    """Files of such names, one a line; "#" begins a comment"""

    words: tuple[Text, ...] = Field(())
    """Words: runs of letters and digits in the URL, whatever their case"""

    word_files: Annotated[tuple[str, ...], ReferenceFiles()] = Field(())
    """Files of such words"""

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

    min_doc_words: Count | None = Field(50)
    """Fewest words that are not symbols alone"""

    max_doc_words: Count | None = Field(100_000)
    """Most words that are not symbols alone"""

    min_avg_word_length: Annotated[float, Field(ge=0)] | None = Field(3.0)
    """Least mean length, in characters, of words that are not symbols alone"""

    max_avg_word_length: Annotated[float, Field(ge=0)] | None = Field(10.0)
    """Greatest such mean length"""

    max_symbol_word_ratio: Annotated[float, Field(ge=0)] | None = Field(0.1)
    """Most "#" characters per word, and most ellipses ("..." or "…") per word"""

    max_bullet_lines_fraction: Fraction | None = Field(0.9)
    """Most lines that begin with "•" or "-"."""

    max_ellipsis_lines_fraction: Fraction | None = Field(0.3)
    """Most lines that end with an ellipsis"""

    min_alpha_words_fraction: Fraction | None = Field(0.8)
    """Fewest words with a letter in them"""

    min_stop_words: Count | None = Field(2)
    """Fewest different stop words that must occur"""

    stop_words: tuple[Text, ...] = Field(("the", "be", "to", "of", "and", "that", "have", "with"))
    """Stop words, in the case in which they must occur"""


class GopherRepetitionSettings(FamilySettings):
    """Gopher's repetition rules (Rae et al. 2021, arXiv:2112.11446, table A1). Fractions are of all characters."""

    max_duplicate_paragraph_fraction: Fraction | None = Field(0.3)
    """Most paragraphs that occurred before, of all paragraphs"""

    max_duplicate_paragraph_char_fraction: Fraction | None = Field(0.2)
    """Most characters in such"""

    max_duplicate_line_fraction: Fraction | None = Field(0.3)
    """Most lines that occurred before, of all lines"""

    max_duplicate_line_char_fraction: Fraction | None = Field(0.2)
    """Most characters in such"""

    max_top_ngram_char_fraction: dict[int, Fraction] = Field({2: 0.20, 3: 0.18, 4: 0.16})
    """n (2 to 4) to the most characters in the most frequent n-gram of words"""

    max_duplicate_ngram_char_fraction: dict[int, Fraction] = Field(
        {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
    )
    """n (5 to 10) to the most characters in n-grams of words that occurred before"""

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

    require_terminal_punctuation: bool = Field(False)
    """Cut lines that do not end in . ? ! or a straight quote, or that end in ..."""

    remove_citations: bool = Field(True)
    """Cut "[1]", "[]", "[edit]" and "[citation needed]" out of lines"""

    min_words_per_line: Count | None = Field(3)
    """Cut lines of fewer words between white space"""

    max_word_length: Count | None = Field(1000)
    """Cut lines with a longer word, in characters"""

    cut_javascript_lines: bool = Field(True)
    """Cut lines that mention "javascript"."""

    policy_phrases: tuple[Text, ...] = Field(
        ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
    )
    """Cut lines that hold one of these, whatever the case of A to Z"""

    drop_lorem_ipsum: bool = Field(True)
    """Drop documents that hold "lorem ipsum" in a line so far kept"""

    drop_curly_bracket: bool = Field(True)
    """Drop documents that hold "{" in a line so far kept"""

    min_num_sentences: Count | None = Field(5)
    """Drop documents with fewer sentences in the lines kept"""

    @field_validator("policy_phrases")
    @classmethod
    def _long_enough(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        short = [phrase for phrase in value if len(phrase.encode()) < _MIN_PHRASE_BYTES]
        if short:
            raise ValueError(f"{', '.join(map(ascii, short))}: too short; a phrase has two bytes or more")
        return value


class FineWebSettings(FamilySettings):
    """FineWeb's own quality rules (Penedo et al. 2024, arXiv:2406.17557, section 3.6)."""

    min_punctuated_lines_fraction: Fraction | None = Field(0.12)
    """Fewest lines that end in a sentence-ending character"""

    keep_unpunctuated: bool = Field(False)
    """Keep documents in which no line at all ends in one"""

    max_short_lines_fraction: Fraction | None = Field(0.67)
    """Most lines of `short_line_length` or less"""

    short_line_length: Count = Field(30)
    """Characters up to which a line is short"""

    max_duplicate_line_char_fraction: Fraction | None = Field(0.01)
    """Most characters in lines that occurred before"""

    max_newlines_per_word: Annotated[float, Field(ge=0)] | None = Field(0.3)
    """Most line breaks per word"""


class RefinedWebSettings(FamilySettings):
    """RefinedWeb's line-wise corrections (Penedo et al. 2023, arXiv:2306.01116, appendix G.2).

    The paper gives the rules and the 5%; the shares, word lists and phrases are those of its examples. Lines are cut,
    and documents that lose too much are dropped.
    """

    max_uppercase_fraction: Fraction | None = Field(0.5)
    """Cut lines with more capitals, of all characters"""

    cut_numeric_lines: bool = Field(True)
    """Cut lines of digits alone"""

    counter_words: tuple[Text, ...] = Field(
        ("likes", "shares", "comments", "replies", "retweets", "reposts", "views", "followers", "downloads", "votes")
    )
    """Cut lines that are a number and one of these: "3 likes"."""

    min_words_per_line: Count | None = Field(2)
    """Cut lines of fewer words between white space"""

    short_line_words: Count = Field(10)
    """Words up to which a line may lose the phrases below"""

    start_phrases: tuple[Text, ...] = Field(("sign-in", "sign in"))
    """Cut from the start of short lines"""

    end_phrases: tuple[Text, ...] = Field(("read more...", "read more…"))
    """Cut from the end of short lines"""

    inner_phrases: tuple[Text, ...] = Field(("items in cart",))
    """Cut from anywhere in short lines"""

    max_cut_words_fraction: Fraction | None = Field(0.05)
    """Drop documents that lose more of their words"""


class Mc4Settings(FamilySettings):
    """mC4's rule (Xue et al. 2021, arXiv:2010.11934, section 3.1): enough long lines."""

    min_long_lines: Count = Field(3)
    """Fewest lines of `long_line_characters` or more"""

    long_line_characters: Count = Field(200)
    """Characters from which a line is long"""


class BadWordsSettings(FamilySettings):
    """C4's bad-words rule (Raffel et al. 2020, section 2.2), with a list of your own: none is shipped."""

    files: Annotated[tuple[str, ...], ReferenceFiles(), Field(min_length=1)] = Field()
    """Files of words and phrases, one a line; "#" begins a comment"""

    max_bad_words: Count = Field(0)
    """Most occurrences of any of them"""

    keep_fraction: Fraction = Field(0.0)
    """Keep this share of the documents with more, chosen by a hash of their text, as FineWeb does"""

    seed: Count = Field(0)
    """Chooses which"""


class QualitySettings(FamilySettings):
    """What a trained classifier says (Li et al. 2024, arXiv:2406.11794, section 4.4)."""

    min_probability: Fraction = Field(0.5)
    """Least probability of the positive label"""


class DecontaminationSettings(FamilySettings):
    """Passages that documents share with evaluation sets (Brown et al. 2020, arXiv:2005.14165, appendix C)."""

    files: Annotated[tuple[str, ...], ReferenceFiles(), Field(min_length=1)] = Field()
    """Evaluation sets: JSON Lines, or text (a paragraph is an item); plain, .gz, .bz2, .zst. Passages of more numbers
    than words are not looked for
    """

    fields: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(None)
    """Fields of a JSON row to take; null: every string in it"""

    ngram: Annotated[int, Field(ge=1, le=MAX_INT)] = Field(13)
    """Words in a row that count as an overlap"""

    min_terms: Annotated[int, Field(ge=1, le=MAX_INT)] = Field(8)
    """An item of fewer words than `ngram` is looked for whole, if it has so many"""

    action: Literal["drop", "cut"] = Field("drop")
    """Drop the document, or cut the passages out of it"""


class FilterFamilies(StrictModel):
    """The filters that may differ by language, in the order in which they run. None turns a family off."""

    language_threshold: Fraction = 0.65
    """the least confidence; a document below it is dropped"""

    gopher_repetition: GopherRepetitionSettings | None = GopherRepetitionSettings()
    """None: off; so for those below"""

    gopher_quality: GopherQualitySettings | None = GopherQualitySettings()
    c4: C4Settings | None = C4Settings()
    refinedweb: RefinedWebSettings | None = None
    mc4: Mc4Settings | None = None
    fineweb: FineWebSettings | None = None
    bad_words: BadWordsSettings | None = None


class LanguageProfile(FilterFamilies):
    """Other filter settings for some languages; what a profile does not set is as for the others."""

    languages: Annotated[list[str], Field(min_length=1)]
    """ISO 639 codes, each in one profile at most"""
