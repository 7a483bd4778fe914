"""The spec takes no value of a setting that a worker would then refuse."""

from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from dataprep.clean.config import CleanConfig
from dataprep.clean.decisions import DocumentFilter
from dataprep.config import MAX_INT
from dataprep.filters import config as settings
from dataprep.pii.redact import redact
from dataprep.quality_classifier.config import QualityClassifierConfig
from dataprep.signatures.config import MinHashSettings
from dataprep.signatures.table import signatures
from dataprep.text.normalise import normalise
from dataprep.tokenize.config import TokenizeConfig

TEXTS = normalise(
    pa.array(
        ["The quick brown fox, and what follows.\nA line. 3 likes\n" * 5, "", "x", "a@b.example"], pa.large_string()
    )
)
NUMBERS = [0, 1, 2**31, 2**32, MAX_INT, 2**63, 2**64, 10**30, 0.0, 1e-308, 0.5, 1e308, float("inf"), float("nan")]
WORDS = [[word] for word in ["", "a", " ", "\0", "\ud800", "\u00e9", "x" * 10_000, "{", "\n", "a\nb", "\u0130"]]
FAMILIES = {
    "gopher_repetition": settings.GopherRepetitionSettings,
    "gopher_quality": settings.GopherQualitySettings,
    "c4": settings.C4Settings,
    "refinedweb": settings.RefinedWebSettings,
    "mc4": settings.Mc4Settings,
    "fineweb": settings.FineWebSettings,
    "url_blocklist": settings.UrlBlocklistSettings,
    "minhash": MinHashSettings,
}
OFF: dict[str, Any] = {"gopher_repetition": None, "gopher_quality": None, "c4": None, "language_threshold": 0}


def work(config: CleanConfig) -> None:
    """What a worker does with the texts under the settings."""
    decisions = DocumentFilter(config, None).judge(TEXTS, ["http://a.example/x"] * len(TEXTS))
    if config.pii is not None:
        redact(decisions.kept, config.pii)
    signatures(decisions.kept, config.minhash)


def tried(**changes: Any) -> bool:
    """Whether the spec takes the settings; then the worker must, too."""
    try:
        config = CleanConfig(inputs=["-"], **{**OFF, **changes})
    except ValidationError:
        return False
    work(config)
    return True


@pytest.mark.parametrize("family", FAMILIES)
def test_a_worker_can_use_every_extreme_that_the_spec_takes(family: str) -> None:
    taken = sum(
        tried(**{family: {name: value}})
        for name in FAMILIES[family].model_fields
        if name not in ("mode", "domain_files", "word_files")
        for value in [*NUMBERS, *WORDS]
    )
    assert taken


def test_placeholders_and_seeds_are_tried_too(tmp_path: Any) -> None:
    (tmp_path / "words.txt").write_text("quick\n")
    words = {"files": [str(tmp_path / "words.txt")], "keep_fraction": 0.5}
    assert [tried(bad_words={**words, "seed": seed}) for seed in (0, MAX_INT, 2**64)] == [True, True, False]
    evaluation = {"files": [str(tmp_path / "words.txt")]}
    for name in ("ngram", "min_terms"):
        found = [tried(decontamination={**evaluation, name: value}) for value in (1, MAX_INT, 2**63)]
        assert found == [True, True, False]
    for text, taken in (("", True), ("<a>", True), ("\ud800", False)):
        assert tried(pii={"placeholders": {"email_address": text}}) is taken


def test_all_short_phrases_are_named() -> None:
    with pytest.raises(ValidationError, match="'x', '': too short; a phrase has two bytes or more"):
        CleanConfig(inputs=["-"], c4={"policy_phrases": ["x", "fine", ""]})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "given"),
    [
        (CleanConfig, {"inputs": ["-"], "limits": {"max_record_bytes": 10**30}}),
        (CleanConfig, {"inputs": ["-"], "limits": {"extract_memory_gib": 1e308}}),
        (CleanConfig, {"inputs": ["-"], "limits": {"extract_timeout_s": 1e308}}),
        (QualityClassifierConfig, {"positive": ["-"], "negative": ["-"], "epochs": 2**31}),
        (TokenizeConfig, {"documents": "d", "tokenizer": "t", "length_classes": [2**63]}),
    ],
)
def test_numbers_beyond_what_a_library_computes_with_are_refused(config: Any, given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="less than or equal"):
        config(**given)
