"""Repeated lines on a real local Ray: clean, cut, deduplicate; killed and with one more input; the whole story kept."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cluster.contracts.artifacts import Artifact
from cluster.contracts.commit import committed_parts, remove_part, sweep
from cluster.inspect import find_url, summarise
from cluster.report.documents import balance
from dataprep.clean import stage as clean
from dataprep.dedupe import stage as dedupe
from dataprep.dedupe.config import DedupeConfig
from dataprep.documents import absolute_uri, read_kept, read_shard_table
from dataprep.repeated_lines import stage as repeated_lines
from dataprep.repeated_lines.config import RepeatedLinesConfig
from tests.integration.test_dataprep import HALF_CPU, Storage, clean_config, paragraphs

pytestmark = pytest.mark.usefixtures("local_ray")

NOTICE = "Subscribe to our newsletter, {n} readers did so before you."


def write(path: Path, texts: list[str], first: int) -> None:
    rows = [{"text": text, "url": f"http://a.org/{n}"} for n, text in enumerate(texts, first)]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n{broken")


def config(**settings: Any) -> RepeatedLinesConfig:
    return RepeatedLinesConfig(parts="clean", workers=HALF_CPU, **settings)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> tuple[Storage, Path, Artifact, Artifact]:
    """Two files: ten documents with a notice between two halves, copies of one of them, and a page of notices."""
    root = tmp_path_factory.mktemp("lines")
    texts = paragraphs()
    words = [text.split() for text in texts[:10]]
    with_notice = [f"{' '.join(w[:120])}\n{NOTICE.format(n=n)}\n{' '.join(w[120:])}" for n, w in enumerate(words)]
    notices = "The notice of the day is that you can read it with us.\n" + f"{NOTICE.format(n=8)}\n" * 4
    write(root / "a.jsonl", [*with_notice[:5], notices], 0)
    write(root / "b.jsonl", [*with_notice[5:], *([texts[20]] * 8), texts[0]], 100)
    place = Storage(root / "storage")
    cleaned = place.run(clean.run, clean_config(root / "a.jsonl", root / "b.jsonl", gopher_quality=None), "1")
    return place, root, cleaned, place.run(repeated_lines.run, config(), "lines", parts=cleaned)


def texts_of(artifact: Artifact) -> list[str]:
    return [
        text
        for shard in read_shard_table(artifact.uri)
        for batch, _ in read_kept(artifact.uri, shard, ["text"])
        for text in batch.column("text").to_pylist()
    ]


def checksums(artifact: Artifact) -> list[tuple[str, ...]]:
    shards = read_shard_table(artifact.uri)
    return [(s.key, s.documents.sha256, s.signatures.sha256, s.dropped.sha256, s.quarantined.sha256) for s in shards]


def test_lines_of_many_documents_are_cut_and_those_of_many_copies_are_not(
    made: tuple[Storage, Path, Artifact, Artifact],
) -> None:
    _, _, cleaned, cut = made
    metrics = cut.manifest.metrics
    assert metrics["documents"] == cleaned.manifest.metrics["kept"] == 20
    assert (metrics["kept"], metrics["dropped"]) == (19, {"repeated_lines": 1})
    assert (metrics["repeated_lines"], metrics["cut_documents"], metrics["cut_lines"]) == (1, 11, 14)
    (row,) = metrics["most_repeated"]
    assert row == {"documents": 11, "within": "corpus", "text": NOTICE.format(n=0)}
    texts = texts_of(cut)
    assert not any("newsletter" in text for text in texts)
    assert texts.count(paragraphs()[20]) == 8
    assert texts[0].replace("\n", " ") == paragraphs()[0]
    assert {file.name.split("/")[0] for file in cut.files()} == {"shards.parquet", "repeated"}


def test_dedupe_takes_what_is_left_and_finds_copies_that_only_the_lines_kept_apart(
    made: tuple[Storage, Path, Artifact, Artifact],
) -> None:
    place, _, cleaned, cut = made
    deduped = place.run(dedupe.run, DedupeConfig(parts="lines", workers=HALF_CPU), "deduped", parts=cut)
    assert deduped.manifest.metrics["removed"]["exact_duplicate"] == 8, "7 copies, and the one without the notice"
    artifacts = {"clean": cleaned, "lines": cut, "dedupe": deduped}
    figures = balance(artifacts)
    assert figures["read"] == 22
    assert figures["kept"] == len(texts_of(deduped)) == 11
    assert figures["dropped"]["repeated_lines"] == 1
    summary = summarise(deduped, examples=1)
    assert (summary.kept.total(), summary.removed.total(), summary.quarantined.total()) == (11, 8, 2)
    assert summary.dropped["repeated_lines"] == 1
    (fate,) = find_url(deduped, "http://a.org/5")
    assert (fate.outcome, fate.reason) == ("dropped", "repeated_lines")
    (fate,) = find_url(deduped, "http://a.org/113")
    assert (fate.outcome, fate.reason) == ("removed", "exact_duplicate")
    assert fate.survivor.startswith("http://a.org/0,")


def test_units_that_are_missing_are_made_again_with_the_same_bytes(
    made: tuple[Storage, Path, Artifact, Artifact],
) -> None:
    place, _, cleaned, cut = made
    expected = checksums(cut)
    parts = place.root / "parts" / "repeated_lines"
    rng = random.Random(0)
    for directory in (parts / "counts", Path(cut.uri) / "repeated", Path(cut.uri) / "chosen", parts):
        if directory == parts:  # what is chosen is there: the choice is committed after it
            for key in committed_parts(str(Path(cut.uri) / "chosen")):
                remove_part(str(Path(cut.uri) / "chosen"), key)
        remove_part(str(directory), rng.choice(list(committed_parts(str(directory)))))
        (directory / "k.0123456789ab.documents.parquet").write_bytes(b"of a dead attempt")
        again = place.run(repeated_lines.run, config(max_workers=1), "lines", parts=cleaned)
        assert checksums(again) == expected
        assert again.manifest.metrics == cut.manifest.metrics
        assert sweep(str(directory)) == ["k.0123456789ab.documents.parquet"]


def test_one_more_input_counts_itself_and_rewrites_only_parts_with_lines_it_made_repeated(
    made: tuple[Storage, Path, Artifact, Artifact],
) -> None:
    place, root, _, cut = made
    texts = paragraphs()
    write(root / "c.jsonl", [f"{texts[50 + n]}\nThe sixth notice is in this file alone." for n in range(7)], 200)
    inputs = [root / f"{name}.jsonl" for name in "abc"]
    more = place.run(clean.run, clean_config(*inputs, gopher_quality=None), "2")
    before = len(list((place.root / "parts" / "repeated_lines").glob("*.documents.parquet")))
    again = place.run(repeated_lines.run, config(), "2", parts=more)
    after = len(list((place.root / "parts" / "repeated_lines").glob("*.documents.parquet")))
    assert after == before + 1, "a and b hold no line that c made repeated"
    assert checksums(again)[:2] == checksums(cut)
    assert again.manifest.metrics["repeated_lines"] == 2


def test_annotated_documents_keep_their_lines_and_carry_the_fractions(
    made: tuple[Storage, Path, Artifact, Artifact],
) -> None:
    place, _, cleaned, _ = made
    found = Storage(place.root / "annotated").run(repeated_lines.run, config(mode="annotate"), parts=cleaned)
    assert texts_of(found) == texts_of(cleaned)
    (first, _) = read_shard_table(found.uri)
    directory = absolute_uri(first.parts, base=found.uri)
    scores = pq.read_table(f"{directory}/{first.documents.name}").column("repeated_lines").to_pylist()
    assert scores[-1]["cut_lines_fraction"] == 4 / 5
    assert 0 < scores[0]["cut_characters_fraction"] < 0.1
