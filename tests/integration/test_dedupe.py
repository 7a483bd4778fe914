"""Dedupe on a real local Ray: URLs, scores, earlier corpora, clusters, and going on where it was killed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext
from cluster.contracts.commit import committed_parts, remove_part
from cluster.contracts.errors import InputError
from cluster.contracts.progress import SilentProgress
from cluster.contracts.records import doc_id
from dataprep.clean import stage as clean
from dataprep.dedupe import stage as dedupe
from dataprep.dedupe.config import DedupeConfig
from dataprep.documents import read_removals, read_shard_table
from dataprep.filters.config import GopherQualitySettings
from tests.integration.test_dataprep import HALF_CPU, Storage, clean_config, paragraphs

pytestmark = pytest.mark.usefixtures("local_ray")


def changed(text: str, word: int) -> str:
    words = text.split()
    words[word] = "otherwise"
    return " ".join(words)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> tuple[Storage, Artifact, Artifact]:
    """An earlier corpus of two documents, and one of seven: copies of each other and of the earlier one's."""
    root = tmp_path_factory.mktemp("dedupe")
    texts = paragraphs()
    write(root / "old.jsonl", [(texts[0], "http://a.org/0"), (texts[1], "http://a.org/1")])
    write(
        root / "new.jsonl",
        [
            (texts[2], "http://a.org/page"),
            (changed(texts[2], 50), "http://a.org/2"),
            (changed(texts[0], 90), "http://a.org/3"),  # of the earlier corpus, nearly
            (texts[3], "https://www.a.org/page/?utm_source=x"),
            (texts[2], "http://a.org/4"),
            (texts[1], "http://a.org/5"),  # of the earlier corpus
            (texts[4], None),
        ],
    )
    place = Storage(root / "storage")
    old, new = (place.run(clean.run, clean_config(root / f"{name}.jsonl"), name) for name in ("old", "new"))
    return place, old, new


def write(path: Path, rows: list[tuple[str, str | None]]) -> None:
    path.write_text("\n".join(json.dumps({"text": text, "url": url}) for text, url in rows))


def config(**settings: Any) -> DedupeConfig:
    return DedupeConfig(parts="clean", workers=HALF_CPU, **settings)


def removed(artifact: Artifact) -> list[tuple[int, str, int, int]]:
    (shard,) = read_shard_table(artifact.uri)
    return [tuple(row.values()) for row in read_removals(artifact.uri, shard).to_pylist()]


def test_reasons_survivors_and_clusters_within_a_corpus(corpora: tuple[Storage, Artifact, Artifact]) -> None:
    place, _, new = corpora
    found = place.run(dedupe.run, config(url=True), "within", parts=new)
    assert removed(found) == [
        (1, "near_duplicate", doc_id(0, 0), 0),
        (3, "url_duplicate", doc_id(0, 0), 0),
        (4, "exact_duplicate", doc_id(0, 0), 0),
    ]
    assert found.manifest.metrics["removed"] == {"exact_duplicate": 1, "url_duplicate": 1, "near_duplicate": 1}
    (file,) = [f for f in found.files() if f.name.startswith("clusters")]
    rows = pq.read_table(found.path(file.name)).to_pylist()
    assert len({row["cluster"] for row in rows}) == 1
    assert [(row["doc_id"], row["survives"], row["reason"]) for row in rows] == [
        (0, True, None), (1, False, "near_duplicate"), (3, False, "url_duplicate"), (4, False, "exact_duplicate"),
    ]  # fmt: skip
    first, near, other_text, exact = (row["similarity"] for row in rows)
    assert first == exact == 1
    assert 0.8 < near < 1
    assert other_text < 0.4


def test_documents_of_an_earlier_corpus_win_and_are_left_alone(corpora: tuple[Storage, Artifact, Artifact]) -> None:
    place, old, new = corpora
    settings = config(against=["old"], clusters=False)
    found = place.run(dedupe.run, settings, "against", **{"parts": new, "against.0": old})
    assert removed(found) == [
        (1, "near_duplicate", doc_id(0, 0), 0),
        (2, "near_duplicate", doc_id(0, 0), 1),
        (4, "exact_duplicate", doc_id(0, 0), 0),
        (5, "exact_duplicate", doc_id(0, 1), 1),
    ]
    assert found.manifest.metrics["earlier_documents"] == 2
    again = place.run(dedupe.run, settings, "on", **{"parts": old, "against.0": found})
    assert removed(again) == [], "what the dedupe artifact lost to this corpus takes no part in it"
    inside = place.run(dedupe.run, config(url=True), "inside", parts=new)
    twice = place.run(dedupe.run, settings, "twice", **{"parts": new, "against.0": inside})
    living = set(range(7)) - {row for row, *_ in removed(inside)}
    assert living <= {row for row, *_ in removed(twice)}, "a dedupe artifact serves too"
    assert {doc for _, _, doc, corpus in removed(twice) if corpus == 1} == {doc_id(0, row) for row in living}
    other = replace(old, manifest=replace(old.manifest, config={"minhash": {"seed": 2}}))
    with pytest.raises(InputError, match="signed with ngram 5 and seed 2"):
        place.run(dedupe.run, settings, "wrong", **{"parts": new, "against.0": other})


def test_the_best_score_stays(corpora: tuple[Storage, Artifact, Artifact]) -> None:
    place, _, new = corpora
    (shard,) = read_shard_table(new.uri)
    scores = pq.read_table(f"{new.uri}/{shard.parts}/{shard.documents.name}").column("language_score").to_numpy()
    best = int(np.argmax(scores[[0, 1, 4]]))
    found = place.run(dedupe.run, config(keep_best="language_score", clusters=False), "best", parts=new)
    assert {survivor for _, _, survivor, _ in removed(found)} == {(0, 1, 4)[best]}
    with pytest.raises(InputError, match=r"has no 'quality'; a number is needed: offset, language_score"):
        place.run(dedupe.run, config(keep_best="quality"), "missing", parts=new)
    with pytest.raises(InputError, match="'url' holds string; a number is needed"):
        place.run(dedupe.run, config(keep_best="url"), "text", parts=new)


def test_the_best_score_of_an_annotating_family_stays(tmp_path: Path) -> None:
    text = paragraphs()[2]
    write(tmp_path / "rows.jsonl", [(text, None), (changed(text, 50) + " And more words follow.", None)])
    place = Storage(tmp_path / "storage")
    settings = clean_config(tmp_path / "rows.jsonl").model_copy(
        update={"gopher_quality": GopherQualitySettings(mode="annotate")}
    )
    scored = place.run(clean.run, settings, "scored")
    found = place.run(dedupe.run, config(keep_best="gopher_quality.num_words"), "best", parts=scored)
    assert removed(found) == [(0, "near_duplicate", doc_id(0, 1), 0)]
    with pytest.raises(InputError, match=r"no 'gopher_quality.words'; .* gopher_quality.num_words"):
        place.run(dedupe.run, config(keep_best="gopher_quality.words"), "missing", parts=scored)


def checksums(artifact: Artifact) -> dict[str, str]:
    """Of all files but the shard table, which holds the attempts' names."""
    return {file.name.split(".")[0]: file.sha256 for file in artifact.files() if "shards" not in file.name}


def test_the_division_into_tasks_changes_no_byte(corpora: tuple[Storage, Artifact, Artifact]) -> None:
    place, old, new = corpora
    inputs = {"parts": new, "against.0": old}
    whole = place.run(dedupe.run, config(url=True), "in-one", **inputs)
    cut = place.run(dedupe.run, config(url=True, task_gib=1e-7, max_workers=2), "in-many", **inputs)
    assert len(committed_parts(whole.path("work"))) == 3
    assert len(committed_parts(cut.path("work"))) > 3 * 20
    assert len(checksums(whole)) == 2
    assert checksums(whole) == checksums(cut)


def test_a_killed_stage_goes_on_with_the_forests_that_are_missing(
    corpora: tuple[Storage, Artifact, Artifact], tmp_path: Path
) -> None:
    place, _, new = corpora
    found = place.run(dedupe.run, config(), "whole", parts=new)
    work = found.path("work")
    units = list(committed_parts(work))
    assert units == ["exact-0000-0000-000000-of-000001", "near-0000-0019-000000-of-000001"]
    remove_part(work, units[1])
    before = storage.stat(f"{work}/{committed_parts(work)[units[0]].files['forest'].name}")
    context = StageContext("dedupe", SilentProgress(), tmp_path, tmp_path)
    dedupe.run(config(union_find_gib=0), {"parts": new}, found.uri, context)
    assert list(committed_parts(work)) == units
    assert before == storage.stat(before.uri), "it was not written again"
    assert not storage.expand(f"{work}/keys-*"), "keys go when all forests are there"
    assert not storage.expand(f"{work}/members-*"), "members go when all clusters are there"
    assert {path.name for path in tmp_path.iterdir()} == {"parents", "parents.labels-1", "parents.labels-2"}
    fresh = place.run(dedupe.run, config(max_workers=1), "fresh", parts=new)
    assert checksums(found) == checksums(fresh)
    assert len(checksums(fresh)) == 2
