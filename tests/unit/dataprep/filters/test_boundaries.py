"""Documents on each limit of the filter families, and just past it, decided as the published rules say."""

import pyarrow as pa
import pytest

from benchmarks.dataprep.boundaries import cases
from dataprep.clean.config import CleanConfig
from dataprep.clean.decisions import DocumentFilter
from dataprep.filters import c4, fineweb, gopher_quality, gopher_repetition

FAMILIES = {module.__name__.rsplit(".", 1)[1]: module for module in (gopher_quality, gopher_repetition, c4, fineweb)}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_document_on_a_limit_is_decided_as_published(family: str) -> None:
    config = CleanConfig(
        inputs=["-"], language_threshold=0, **{name: {} if name == family else None for name in FAMILIES}
    )
    mine = [case for case in cases() if case.family == family]
    decisions = DocumentFilter(config).judge(pa.array([case.text for case in mine], pa.large_string()))
    assert {case.what: reason for case, reason in zip(mine, decisions.reasons_D, strict=True)} == {
        case.what: case.reason for case in mine
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_every_reason_has_a_document(family: str) -> None:
    found = {case.reason for case in cases() if case.family == family}
    assert found == {"", *FAMILIES[family].REASONS} - {"gopher_repetition_empty", "fineweb_empty"}
