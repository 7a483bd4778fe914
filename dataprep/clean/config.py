"""The settings of the clean stage.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from cluster.contracts.config import InputFiles, InputOf
from dataprep.config import DataConfig
from dataprep.filters.settings import (
    DecontaminationSettings,
    FilterFamilies,
    LanguageProfile,
    QualitySettings,
    UrlBlocklistSettings,
)
from dataprep.pii.settings import PiiSettings
from dataprep.signatures.config import MinHashSettings
from dataprep.sources.config import Columns, ExtractorName, ReadLimits
from dataprep.sources.formats import Format, format_of

ProfileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


class CleanConfig(DataConfig, FilterFamilies):
    """Raw files to documents: read, extract, normalise, identify the language, filter, sign."""

    stage_version: ClassVar[int] = 4  # 4: a pack is of one input; more kinds of URLs and personal data are found

    kind: Literal["clean"] = "clean"

    inputs: Annotated[list[str], InputFiles(), Field(min_length=1)]
    """Files, directories, globs, or `.list` files with one of these a line; the README has the formats."""

    format: Format | None = None
    """Of all inputs, where their names do not tell it; None: each by its name. `code` is for source trees."""

    columns: Columns = Columns()
    """which fields of JSON Lines, or columns of Parquet, hold what"""

    extractor: ExtractorName = "resiliparse"
    """What takes the main text out of a page; trafilatura needs `pip install "raymill[text]"` and much more time."""

    limits: ReadLimits = ReadLimits()
    """beyond these a record is quarantined"""

    fix_mojibake: bool = False
    """repair wrongly decoded characters ("schÃ¶n"); needs `pip install "raymill[text]"`"""

    url_blocklist: UrlBlocklistSettings | None = None
    """None: off"""

    languages: Annotated[list[str], Field(min_length=1)] | None = None
    """ISO 639 codes to keep; None: all"""

    profiles: dict[ProfileName, LanguageProfile] = Field(default_factory=dict)
    """name to languages and the filter settings that differ for them"""

    classifier: Annotated[str | None, InputOf(("quality_classifier",))] = None
    """None: off; judges what the filters left."""

    quality: QualitySettings = QualitySettings()
    """the threshold on the classifier's score"""

    decontamination: DecontaminationSettings | None = None
    """None: off; runs last, on what the filters left"""

    minhash: MinHashSettings = MinHashSettings()

    pii: PiiSettings | None = None
    """None: off; personal data stays in the text"""

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
