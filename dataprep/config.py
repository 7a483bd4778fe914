"""The settings of the data stages. Importing this costs Pydantic only, since `raymill plan` loads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from cluster.contracts.config import InputFiles, InputOf, Resources, StageConfig, StrictModel, execution
from dataprep.filters.settings import (
    MAX_INT,
    BadWordsSettings,
    C4Settings,
    DecontaminationSettings,
    FineWebSettings,
    GopherQualitySettings,
    GopherRepetitionSettings,
    Mc4Settings,
    PiiSettings,
    QualitySettings,
    RefinedWebSettings,
    UrlBlocklistSettings,
)
from dataprep.sources.formats import Format, format_of

Fraction = Annotated[float, Field(ge=0, le=1)]
ExtractorName = Literal["resiliparse", "trafilatura"]
ProfileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
MAX_INT32 = 2**31 - 1  # fastText's counts
MIN_CLASSIFIER_MIB = 33  # above glibc's largest threshold for fresh memory, 32 MiB
Weight = Annotated[float, Field(ge=0)]
NUM_BASE_TOKENS = 256  # a byte-level vocabulary holds every byte


class Columns(StrictModel):
    """Which fields of a JSON Lines row, or columns of a Parquet file, hold what."""

    text: str = "text"  # the document; a row, or a Parquet file, without it is quarantined
    url: str | None = "url"  # None: not there; so for those below
    date: str | None = "date"
    title: str | None = "title"


class MinHashSettings(StrictModel):
    """Signatures for near-duplicates. Corpora can be deduplicated together only where these agree."""

    num_hashes: Annotated[int, Field(ge=1, le=1024)] = 160  # per document; dedupe cuts them into 20 bands of 8 rows
    ngram: Annotated[int, Field(ge=1, le=MAX_INT)] = 5  # terms of a shingle
    seed: Annotated[int, Field(ge=0)] = 1  # chooses the hash functions


class ReadLimits(StrictModel):
    """Beyond these a record is quarantined instead of read."""

    # Of a page, a text, a JSON line or a Parquet row's text.
    max_record_bytes: Annotated[int, Field(ge=1, le=2**40)] = 16 * 2**20
    # Elements open at once; extraction is quadratic in it.
    max_html_depth: Annotated[int, Field(ge=1, le=MAX_INT)] = 2_000
    max_html_attributes: Annotated[int, Field(ge=1, le=MAX_INT)] = 2_000  # of one tag; parsing is quadratic in them
    # CPU time of a page's extraction, in a process of its own.
    extract_timeout_s: Annotated[float, Field(ge=1e-3, le=1e6)] = 10.0
    extract_memory_gib: Annotated[float, Field(gt=0, le=2**20)] = 1.0  # what that process may grow by


class DataConfig(StageConfig):
    """What the stages on Ray Data share. None of them draws anything by the spec's seed."""

    uses_seed: ClassVar[bool] = False

    workers: Resources = execution(default_factory=Resources, description="what each task gets")
    max_workers: Annotated[int | None, Field(ge=1)] = execution(
        default=None, description="tasks at the same time; None: as many as the cluster has room for"
    )

    def roles(self) -> list[tuple[str, int, Resources]]:
        return [("worker", 1, self.workers)]


class FilterFamilies(StrictModel):
    """The filters that may differ by language, in the order in which they run. None turns a family off."""

    language_threshold: Fraction = 0.65  # the least confidence; a document below it is dropped
    gopher_repetition: GopherRepetitionSettings | None = GopherRepetitionSettings()  # None: off; so for those below
    gopher_quality: GopherQualitySettings | None = GopherQualitySettings()
    c4: C4Settings | None = C4Settings()
    refinedweb: RefinedWebSettings | None = None
    mc4: Mc4Settings | None = None
    fineweb: FineWebSettings | None = None
    bad_words: BadWordsSettings | None = None


class LanguageProfile(FilterFamilies):
    """Other filter settings for some languages; what a profile does not set is as for the others."""

    languages: Annotated[list[str], Field(min_length=1)]  # ISO 639 codes, each in one profile at most


class CleanConfig(DataConfig, FilterFamilies):
    """Raw files to documents: read, extract, normalise, identify the language, filter, sign."""

    stage_version: ClassVar[int] = 4  # 4: a pack is of one input; more kinds of URLs and personal data are found

    kind: Literal["clean"] = "clean"
    # Files, directories, globs, or `.list` files with one of these a line; the README has the formats.
    inputs: Annotated[list[str], InputFiles(), Field(min_length=1)]
    # Of all inputs, where their names do not tell it; None: each by its name. `code` is for source trees.
    format: Format | None = None
    columns: Columns = Columns()  # which fields of JSON Lines, or columns of Parquet, hold what
    # What takes the main text out of a page; trafilatura needs `pip install "raymill[text]"` and much more time.
    extractor: ExtractorName = "resiliparse"
    limits: ReadLimits = ReadLimits()  # beyond these a record is quarantined
    fix_mojibake: bool = False  # repair wrongly decoded characters ("schÃ¶n"); needs `pip install "raymill[text]"`
    url_blocklist: UrlBlocklistSettings | None = None  # None: off
    languages: Annotated[list[str], Field(min_length=1)] | None = None  # ISO 639 codes to keep; None: all
    profiles: dict[ProfileName, LanguageProfile] = Field(
        default_factory=dict, description="name to languages and the filter settings that differ for them"
    )
    # None: off; judges what the filters left.
    classifier: Annotated[str | None, InputOf(("quality_classifier",))] = None
    quality: QualitySettings = QualitySettings()  # the threshold on the classifier's score
    decontamination: DecontaminationSettings | None = None  # None: off; runs last, on what the filters left
    minhash: MinHashSettings = MinHashSettings()
    pii: PiiSettings | None = None  # None: off; personal data stays in the text

    @model_validator(mode="before")
    @classmethod
    def _complete_profiles(cls, values: Any) -> Any:
        """Give each profile the stage's own settings where it sets none, so that a resolved spec says it all."""
        if not isinstance(values, dict) or not isinstance(values.get("profiles"), dict):
            return values
        shared = {name: values[name] for name in FilterFamilies.model_fields if name in values}
        profiles = {
            name: _merged(shared, profile) if isinstance(profile, dict) else profile
            for name, profile in values["profiles"].items()
        }
        return {**values, "profiles": profiles}

    @model_validator(mode="after")
    def _one_profile_each(self) -> CleanConfig:
        routed = [language for profile in self.profiles.values() for language in profile.languages]
        twice = sorted({language for language in routed if routed.count(language) > 1})
        if twice:
            raise ValueError(f"profiles: {', '.join(twice)} stands in more than one; each language has one at most")
        return self

    def annotated_families(self) -> list[str]:
        """The families that store their scores, for any language, in the order in which they run."""
        groups = [self, *self.profiles.values()]
        return [
            name
            for name in ("url_blocklist", *FilterFamilies.model_fields, "quality", "decontamination")
            if any(getattr(getattr(group, name, None), "mode", None) == "annotate" for group in groups)
            and (name != "quality" or self.classifier is not None)
        ]

    def check_input(self, uri: str) -> None:
        """Raise `InputError` for a file of no known format."""
        format_of(uri, self.format)

    def for_code(self) -> CleanConfig:
        """The settings as they hold for source code: no rule that is made for prose."""
        off = dict.fromkeys(["languages", *FilterFamilies.model_fields])
        return self.model_copy(update={**off, "language_threshold": 0.0, "profiles": {}, "fix_mojibake": False})


def _merged(base: Any, changes: Any) -> Any:
    """`changes` over `base`, setting by setting where both are mappings."""
    base, changes = (value.model_dump() if isinstance(value, BaseModel) else value for value in (base, changes))
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    return {**base, **{name: _merged(base.get(name), value) for name, value in changes.items()}}


class QualityClassifierConfig(StageConfig):
    """A fastText classifier of good and bad documents, which a clean stage applies."""

    kind: Literal["quality_classifier"] = "quality_classifier"
    positive: Annotated[list[str], InputFiles(), Field(min_length=1)]  # files of good documents, as clean's inputs
    negative: Annotated[list[str], InputFiles(), Field(min_length=1)]  # files of others: a sample of the raw data
    columns: Columns = Columns()  # which fields of JSON Lines, or columns of Parquet, hold what
    word_ngrams: Annotated[int, Field(ge=1, le=MAX_INT32)] = 2  # words of the longest n-gram that is a feature
    dimensions: Annotated[int, Field(ge=1, le=MAX_INT32)] = 100  # of a feature's vector
    # For hashes of n-grams; each takes 4 x `dimensions` bytes.
    buckets: Annotated[int, Field(ge=1, le=MAX_INT32)] = 500_000
    min_count: Annotated[int, Field(ge=1, le=MAX_INT32)] = 1  # occurrences of a word, to be a feature
    epochs: Annotated[int, Field(ge=1, le=MAX_INT32)] = 5  # passes over the documents
    lr: Annotated[float, Field(gt=0)] = 0.1  # learning rate at the beginning; it falls to 0
    heldout_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1  # of the documents, kept back to measure on
    worker: Resources = execution(default_factory=Resources, description="what the training process gets")

    @model_validator(mode="after")
    def _table_is_fresh(self) -> QualityClassifierConfig:
        size_mib = 4 * self.buckets * self.dimensions / 2**20
        if size_mib < MIN_CLASSIFIER_MIB:
            raise ValueError(
                f"buckets x dimensions make a table of {size_mib:.0f} MiB; it must be {MIN_CLASSIFIER_MIB} or more:"
                " fastText leaves most of it as it gets it, and only large memory comes as zeros. Raise buckets"
            )
        return self

    def check_input(self, uri: str) -> None:
        """Raise `InputError` for a file of no known format."""
        format_of(uri)

    def roles(self) -> list[tuple[str, int, Resources]]:
        return [("trainer", 1, self.worker)]


class RepeatedLinesConfig(DataConfig):
    """Lines that stand in many documents are cut, across the corpus and across files: menus, notices, footers.

    Llama 3 removes lines that are in more than 6 documents of 30 million (arXiv:2407.21783, section 3.1.1). Near copies
    of a document count as few here, so that lines of a page that is there often are left to deduplication: 1,000 copies
    of 300 words with 4 of them changed, or 300 copies with 8, keep their lines at the default threshold. 100 copies
    with 12 changed may lose them, and be dropped; with 16 they do.
    """

    stage_version: ClassVar[int] = 2  # 2: copies are told by bands of MinHashes

    kind: Literal["repeated_lines"] = "repeated_lines"
    parts: Annotated[str, InputOf(("clean",))]  # the documents
    mode: Literal["filter", "annotate"] = Field(
        "filter", description="annotate: cut and drop nothing, store the fractions that would be cut"
    )
    # A line is cut that is in so many different documents; None: only `min_site_documents` counts.
    min_documents: Annotated[int | None, Field(ge=2, le=MAX_INT)] = 7
    min_documents_fraction: Fraction = 0.0  # of all documents, copies counted, that it must be in as well
    # A line is cut, too, that is in so many different documents of one site (host without `www.`; documents without URL
    # are one site); None: off.
    min_site_documents: Annotated[int | None, Field(ge=2, le=MAX_INT)] = None
    # Shorter lines stay: headings, answers, items of lists.
    min_line_characters: Annotated[int, Field(ge=0, le=MAX_INT)] = 20
    min_words_left: Annotated[int, Field(ge=0, le=MAX_INT)] = 50  # a document that lost lines and has fewer is dropped

    def clashes(self) -> Iterator[tuple[str, str]]:
        if self.min_documents is None and self.min_site_documents is None:
            yield "min_documents", "null needs min_site_documents: give one of them a number, or nothing is repeated"
        if self.min_documents is None and self.min_documents_fraction:
            yield "min_documents_fraction", "goes with min_documents, which is null; give that a number"


class FuzzySettings(StrictModel):
    """Banded LSH over the MinHash signatures: documents that agree in every row of some band are candidates.

    Two documents of Jaccard similarity s meet with probability 1 - (1 - s^rows)^bands. The signatures must have
    bands x rows hashes or more.
    """

    bands: Annotated[int, Field(ge=1)] = 20
    rows: Annotated[int, Field(ge=1)] = 8  # hashes of a band
    similarity: Annotated[float | None, Field(gt=0, lt=1)] = None  # choose bands and rows for this one instead
    # Candidates must be this similar to one of up to 8 leaders of their bucket, as estimated from one bit of each hash
    # (standard deviation 0.07); None: all candidates are duplicates.
    verify: Annotated[float | None, Field(gt=0, lt=1)] = 0.55

    @model_validator(mode="after")
    def _one_way(self) -> FuzzySettings:
        # By value, not by what was given: a resolved spec gives the defaults too.
        defaults = {name: FuzzySettings.model_fields[name].default for name in ("bands", "rows")}
        if self.similarity is not None and (self.bands, self.rows) != (defaults["bands"], defaults["rows"]):
            raise ValueError("give either similarity, or bands and rows")
        return self


class DedupeConfig(DataConfig):
    """Exact, URL and near duplicates across all documents, and against earlier corpora."""

    stage_version: ClassVar[int] = 5  # 5: `#!` tells pages apart

    kind: Literal["dedupe"] = "dedupe"
    parts: Annotated[str, InputOf(("clean", "repeated_lines"))]  # the documents
    against: Annotated[list[str], InputOf(("clean", "repeated_lines", "dedupe"))] = Field(
        default_factory=list,
        description="earlier corpora, clean, repeated_lines or dedupe stages, or directories: their documents win and"
        " are left alone",
    )
    exact: bool = True  # remove documents of the same normalised text
    # Remove documents of the same page: URLs equal but for scheme, `www.`, fragment (unless `#!`) and tracking.
    url: bool = False
    fuzzy: FuzzySettings | None = FuzzySettings()  # None: near duplicates stay
    # Of a group, keep the document with the most of this: a column of numbers (`language_score`) or a score of a filter
    # family that annotated (`gopher_quality.num_words`). Documents without the score (null, NaN) come after all others;
    # of equals the lowest doc_id stays. None: the lowest doc_id.
    keep_best: str | None = None
    clusters: bool = True  # write the groups too, clusters-*.parquet, to look at
    union_find_gib: Annotated[float, Field(ge=0)] = execution(
        default=4.0,
        description="memory of the driver for joining groups, 16 bytes a document; more than that is mapped"
        " from files on its disk",
    )
    task_gib: Annotated[float, Field(gt=0)] = execution(
        default=0.25,
        description="memory of a task for the keys and sketches it works on, beside its program; less means more tasks"
        " and smaller reads. Documents that share a key, such as copies of a text, are one task however many they are",
    )


class SpecialTokens(StrictModel):
    """The control tokens, last in the vocabulary and in this order. Text never encodes to them."""

    end_of_text: str = "<|endoftext|>"  # between documents; the tokenizer's bos_token
    start_of_turn: str = "<|im_start|>"
    end_of_turn: str = "<|im_end|>"  # the tokenizer's eos_token
    pad: str = "<|pad|>"

    def in_order(self) -> list[str]:
        """All of them, as they are numbered."""
        return [self.end_of_text, self.start_of_turn, self.end_of_turn, self.pad]

    @model_validator(mode="after")
    def _distinct(self) -> SpecialTokens:
        if len(set(self.in_order())) < len(self.in_order()) or "" in self.in_order():
            raise ValueError("special tokens must differ from one another and not be empty")
        return self


class TokenizerConfig(StageConfig):
    """A byte-level BPE tokenizer trained on what dedupe left."""

    kind: Literal["tokenizer"] = "tokenizer"
    documents: Annotated[str, InputOf(("dedupe",))]
    vocab_size: Annotated[int, Field(ge=NUM_BASE_TOKENS + 8, le=1 << 20)] = 32_768  # tokens, special ones included
    min_frequency: Annotated[int, Field(ge=1, le=MAX_INT)] = 2  # of a pair, to be merged
    sample_characters: Annotated[int, Field(ge=1)] = 200_000_000  # trained on about so many, drawn by document
    # language code -> weight in the sample; those not named have 1
    languages: dict[str, Weight] = Field(default_factory=dict)
    temperature: Annotated[float, Field(ge=1)] = 1.0  # between languages; 1: as they come, more: more alike
    special_tokens: SpecialTokens = SpecialTokens()  # the control tokens
    worker: Resources = execution(default_factory=Resources, description="what the training process gets")

    def roles(self) -> list[tuple[str, int, Resources]]:
        return [("trainer", 1, self.worker)]


class TokenizeConfig(DataConfig):
    """What dedupe left, as token shards."""

    stage_version: ClassVar[int] = 3  # 3: sources are told by their URI

    kind: Literal["tokenize"] = "tokenize"
    documents: Annotated[str, InputOf(("dedupe",))]
    tokenizer: Annotated[str, InputOf(("tokenizer",))]
    end_of_text: str = "<|endoftext|>"  # the tokenizer's token that ends each document
    heldout_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.01  # of documents, kept out of training for evaluation
    split_seed: Annotated[int, Field(ge=0, le=MAX_INT)] = 0  # chooses which
    # Lower ends of the classes of lengths (tokens of a document), besides 0; a mixture can weigh them.
    length_classes: list[Annotated[int, Field(ge=1, le=MAX_INT)]] = Field(default=[2048, 8192, 32_768], max_length=16)

    @model_validator(mode="after")
    def _ascending(self) -> TokenizeConfig:
        if self.length_classes != sorted(set(self.length_classes)):
            raise ValueError(f"length_classes must ascend; got {self.length_classes}")
        return self


class MixtureConfig(StageConfig):
    """How much of what a model is trained on: an index over token shards, in which documents may be repeated.

    Training documents are grouped by source, language and class of lengths. A group's share is in proportion to its
    tokens x the three weights x its language's share of all tokens to the power 1 / temperature - 1, as far as
    `max_epochs` allows; what that cuts off goes to the other groups.
    """

    kind: Literal["mixture"] = "mixture"
    tokens: Annotated[list[str], InputOf(("tokenize",)), Field(min_length=1)]
    tokenizer: Annotated[str, InputOf(("tokenizer",))]  # the one that all of the shards were made with
    # Pattern of input files' names (`web-*`), with directories where names recur (`en/web-*`), or of all below a
    # directory (`books/*`) -> weight; the first that fits; else 1. Unlike in clean's inputs, a star before the end
    # stays within a name, and `**` goes through directories. Files of one document each (HTML, text, code) go by the
    # directory that clean's input covers.
    sources: dict[str, Weight] = Field(default_factory=dict)
    languages: dict[str, Weight] = Field(default_factory=dict)  # language code -> weight; those not named have 1
    # lower end of a class of lengths (0, 2048, ...) -> weight; those not named have 1
    lengths: dict[int, Weight] = Field(default_factory=dict)
    temperature: Annotated[float, Field(ge=1)] = 1.0  # between languages; 1: as they come, more: more alike
    max_epochs: Annotated[float, Field(gt=0)] = 4.0  # how often a document may come at most
    total_tokens: Annotated[int | None, Field(ge=1)] = None  # of the mixture; None: as many as the groups in it have
