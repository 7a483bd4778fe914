"""The settings of the clean stage.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from cluster.contracts.config import InputFiles, InputOf, Sections
from dataprep.config import DataConfig
from dataprep.filters.config import (
    DecontaminationSettings,
    FilterFamilies,
    LanguageProfile,
    QualitySettings,
    UrlBlocklistSettings,
)
from dataprep.pii.config import PiiSettings
from dataprep.signatures.config import MinHashSettings
from dataprep.sources.config import Columns, ExtractorName, ReadLimits
from dataprep.sources.formats import Format, format_of

ProfileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


class CleanConfig(DataConfig, FilterFamilies):
    """Raw files to documents: read, extract, normalise, identify the language, filter, sign."""

    stage_version: ClassVar[int] = 4  # 4: a pack is of one input; more kinds of URLs and personal data are found

    kind: Literal["clean"] = "clean"

    sections: ClassVar[Sections] = {
        "Raw files": ("inputs", "format", "columns", "limits"),
        "Text": ("extractor", "fix_mojibake", "pii", "minhash"),
        "Languages": ("languages", "language_threshold", "profiles"),
        "Filters": (
            "url_blocklist",
            "gopher_repetition",
            "gopher_quality",
            "c4",
            "refinedweb",
            "mc4",
            "fineweb",
            "bad_words",
            "classifier",
            "quality",
            "decontamination",
        ),
        "Execution": ("workers", "max_workers"),
    }

    inputs: Annotated[list[str], InputFiles(), Field(min_length=1)]
    """The raw files: files, directories, globs, and `.list` files that name one of these a line. A file's name tells
    its format and compression (WARC, WET, JSON Lines, Parquet, HTML, text, MediaWiki XML; .gz, .bz2, .zst).
    """

    format: Format | None = None
    """The format of all input files, where their names do not tell it. `null` goes by each file's name. `code` is for
    source trees: no filter made for prose runs on them.
    """

    columns: Columns = Columns()
    """Which fields of JSON Lines, or columns of Parquet, hold what."""

    extractor: ExtractorName = "resiliparse"
    """What takes the main text out of an HTML page. `trafilatura` leaves more menus and comments out, takes many times
    longer, and needs `pip install raymill[text]`.
    """

    limits: ReadLimits = ReadLimits()
    """How large a record may be and what its extraction may cost; what goes beyond is quarantined."""

    fix_mojibake: bool = False
    """Whether wrongly decoded characters (schÃ¶n for schön) are repaired. It needs `pip install raymill[text]` and
    time.
    """

    url_blocklist: UrlBlocklistSettings | None = None
    """Drops pages of listed sites and pages with listed words in their URL. `null`, the default, turns it off."""

    languages: Annotated[list[str], Field(min_length=1)] | None = None
    """Language codes to keep, as in [en, de]; documents in other languages are dropped. `null` keeps all."""

    profiles: dict[ProfileName, LanguageProfile] = Field(default_factory=dict)
    """Other filter settings for some languages: a name of your own to the languages and to what differs for them. A
    language stands in one profile at most, and what a profile leaves out is as for all others.
    """

    classifier: Annotated[str | None, InputOf(("quality_classifier",))] = None
    """The quality_classifier stage, or a directory with its artifact, whose classifier judges what the filters left.
    `null` judges nothing, and `quality` is not used.
    """

    quality: QualitySettings = QualitySettings()
    """The threshold on the classifier's score. It has an effect only with `classifier`."""

    decontamination: DecontaminationSettings | None = None
    """Removes passages that documents share with evaluation sets, after all filters. `null`, the default, turns it off.
    """

    minhash: MinHashSettings = MinHashSettings()
    """How signatures are computed, by which dedupe finds near duplicates."""

    pii: PiiSettings | None = None
    """Replaces personal data and secrets by placeholders. `null`, the default, leaves them in the text."""

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
