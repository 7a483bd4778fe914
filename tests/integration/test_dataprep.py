"""The four data stages on a real local Ray: nothing is lost, the same bytes come out again, killed runs go on."""

import gzip
import json
import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from transformers import AutoTokenizer

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, Manifest, StageContext, StageResult, open_artifact, write_manifest
from cluster.contracts.config import Resources, StageConfig
from cluster.contracts.errors import InputError, StageFailed, StorageError
from cluster.contracts.progress import SilentProgress
from cluster.contracts.records import doc_id
from cluster.contracts.retry import Backoff
from cluster.contracts.tokens import open_shards, read_token_index
from dataprep.clean import stage as clean
from dataprep.clean.config import CleanConfig
from dataprep.dedupe import stage as dedupe
from dataprep.dedupe.config import DedupeConfig
from dataprep.documents import absolute_uri, read_kept, read_shard_table
from dataprep.quality_classifier import stage as quality_classifier
from dataprep.quality_classifier.config import QualityClassifierConfig
from dataprep.ray_tasks import AlreadyDone, run_shard_tasks
from dataprep.tokenize import stage as tokenize
from dataprep.tokenize.config import TokenizeConfig
from dataprep.tokenizer import stage as tokenizer
from dataprep.tokenizer.config import TokenizerConfig

pytestmark = pytest.mark.usefixtures("local_ray")

SAMPLES = Path(__file__).parents[2] / "job_specs" / "data"
HALF_CPU = Resources(cpus=0.5)


@dataclass(frozen=True)
class Storage:
    """A storage directory, and stages run into it as the runner does."""

    root: Path

    def run(
        self, function: Callable[..., StageResult], config: StageConfig, name: str = "0", **inputs: Artifact
    ) -> Artifact:
        output = str(self.root / config.kind / name)
        context = StageContext(
            name=config.kind,
            progress=SilentProgress(),
            scratch=self.root,
            log_directory=self.root,
            parts_directory=str(self.root / "parts" / config.kind),
        )
        result = function(config, inputs, output, context)
        fingerprints = {role: artifact.manifest.fingerprint for role, artifact in inputs.items()}
        manifest = Manifest(config.kind, name, config.model_dump(mode="json"), fingerprints, metrics=result.metrics)
        write_manifest(output, manifest, result.files)
        for file in result.files:
            assert storage.stat(f"{output}/{file.name}").size == file.size
        return open_artifact(output)


def clean_config(*inputs: Path, **settings: Any) -> CleanConfig:
    """Lenient settings, so that what the tests plant is what they find."""
    lenient = {"gopher_repetition": None, "gopher_quality": {"min_alpha_words_fraction": 0.5}, "c4": None}
    return CleanConfig(inputs=[str(path) for path in inputs], workers=HALF_CPU, **{**lenient, **settings})


def paragraphs() -> list[str]:
    """Some 200 different English texts of about 250 words, out of the shipped speeches."""
    with zstandard.open(SAMPLES / "speeches.jsonl.zst", "rt") as lines:
        speeches = [orjson.loads(line)["text"].split() for line in lines]
    long = (words for words in speeches if len(words) >= 1750)
    return [" ".join(words[start : start + 250]) for words in long for start in (500, 1500)]


def page(number: int, text: str) -> bytes:
    body = f"<html><head><title>Page {number}</title></head><body><main><p>{text}</p></main></body></html>".encode()
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + body
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
        f"WARC-Target-URI: https://example.org/{number}\r\nContent-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(http)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + http + b"\r\n\r\n")


class Corpus:
    """Three files with planted duplicates, one damaged record and broken lines."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        texts = paragraphs()
        self.unique = texts[:120]
        rng = random.Random(0)
        copied, changed = self.unique[5], self.unique[6].split()
        changed[rng.randrange(len(changed))] = "otherwise"
        control = self.unique[7] + " <|im_end|> and <|endoftext|> are only words here."
        self.warc, self.first, self.second = root / "a.warc.gz", root / "b.jsonl", root / "c.jsonl.zst"
        members = [page(n, text) for n, text in enumerate(self.unique[:40])]
        members[20] = members[20][:60] + b"\xff" * 20 + members[20][80:]
        members[7] = page(7, control.replace("<", "&lt;"))
        self.damaged_offset = sum(map(len, members[:20]))
        self.warc.write_bytes(b"".join(members))
        rows = [
            json.dumps({"text": text, "url": f"https://example.org/b/{n}"}) for n, text in enumerate(self.unique[40:80])
        ]
        rows[3:3] = ["{broken", "[]", '{"text": null}']
        self.first.write_text("\n".join(rows))
        last = [*self.unique[80:], copied, " ".join(changed), "too short"]
        content = "\n".join(json.dumps({"text": text}) for text in last).encode()
        self.second.write_bytes(zstandard.compress(content))
        self.files = (self.warc, self.first, self.second)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(tmp_path_factory.mktemp("corpus") / "files")


@dataclass(frozen=True)
class Prepared:
    """The artifacts of all four stages."""

    storage: Storage
    clean: Artifact
    dedupe: Artifact
    tokenizer: Artifact
    tokens: Artifact


def prepare(root: Path, corpus: Corpus, *, max_workers: int | None) -> Prepared:
    place = Storage(root)
    cleaned = place.run(clean.run, clean_config(*corpus.files, max_workers=max_workers))
    deduped = place.run(
        dedupe.run, DedupeConfig(parts="clean", workers=HALF_CPU, max_workers=max_workers), parts=cleaned
    )
    trained = place.run(
        tokenizer.run, TokenizerConfig(documents="dedupe", vocab_size=1000, worker=HALF_CPU), documents=deduped
    )
    config = TokenizeConfig(
        documents="dedupe", tokenizer="tokenizer", heldout_fraction=0.1, workers=HALF_CPU, max_workers=max_workers
    )
    tokens = place.run(tokenize.run, config, documents=deduped, tokenizer=trained)
    return Prepared(place, cleaned, deduped, trained, tokens)


@pytest.fixture(scope="module")
def prepared(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Prepared:
    return prepare(tmp_path_factory.mktemp("storage"), corpus, max_workers=None)


def table_of(artifact: Artifact, role: str) -> pa.Table:
    """One kind of file of all parts of a clean artifact."""
    shards = read_shard_table(artifact.uri)
    paths = [f"{absolute_uri(s.parts, base=artifact.uri)}/{getattr(s, role).name}" for s in shards]
    return pa.concat_tables(pq.read_table(path) for path in paths)


def test_every_record_is_kept_dropped_or_quarantined_with_its_place(prepared: Prepared, corpus: Corpus) -> None:
    metrics = prepared.clean.manifest.metrics
    assert metrics["read"] == 40 + 43 + 43
    assert metrics["quarantine_reasons"] == {
        "bad_json": 1, "corrupt_gz": 1, "not_an_object": 1, "text_not_a_string": 1
    }  # fmt: skip
    assert metrics["dropped"] == {"gopher_short_doc": 1}
    assert metrics["read"] == metrics["kept"] + sum(metrics["dropped"].values()) + metrics["quarantined"]
    quarantined = table_of(prepared.clean, "quarantined").to_pylist()
    assert [(Path(q["uri"]).name, q["reason"]) for q in quarantined] == [
        ("a.warc.gz", "corrupt_gz"),
        ("b.jsonl", "bad_json"),
        ("b.jsonl", "not_an_object"),
        ("b.jsonl", "text_not_a_string"),
    ]
    assert quarantined[0]["offset"] == corpus.damaged_offset
    assert corpus.first.read_bytes()[quarantined[1]["offset"] :].startswith(b"{broken")
    documents = table_of(prepared.clean, "documents")
    assert documents.num_rows == table_of(prepared.clean, "signatures").num_rows == metrics["kept"]
    row = documents.slice(0, 1).to_pylist()[0]
    assert (row["url"], row["title"], row["language"]) == ("https://example.org/0", "Page 0", "en")
    dropped = table_of(prepared.clean, "dropped").to_pylist()
    assert [(d["reason"], d["head"]) for d in dropped if d["reason"] == "gopher_short_doc"] == [
        ("gopher_short_doc", "too short")
    ]


def test_planted_duplicates_go_and_unique_documents_stay(prepared: Prepared) -> None:
    metrics = prepared.dedupe.manifest.metrics
    assert metrics["removed"] == {"exact_duplicate": 1, "near_duplicate": 1}
    assert (metrics["clusters"], metrics["largest_cluster"]) == (2, 2)
    assert metrics["documents"] == metrics["kept"] + 2
    shards = read_shard_table(prepared.dedupe.uri)
    assert [shard.num_removed for shard in shards] == [0, 0, 2]
    removals = shards[2].removals
    assert removals is not None
    rows = pq.read_table(f"{prepared.dedupe.uri}/{removals.name}").to_pylist()
    assert [(r["reason"], r["survivor"]) for r in rows] == [
        ("exact_duplicate", doc_id(0, 5)),
        ("near_duplicate", doc_id(0, 6)),
    ]


def test_the_tokenizer_loads_and_marks_assistant_turns(prepared: Prepared) -> None:
    loaded = AutoTokenizer.from_pretrained(prepared.tokenizer.uri)
    assert len(loaded) == prepared.tokenizer.manifest.metrics["vocab_size"] == 1000
    assert 1.5 < prepared.tokenizer.manifest.metrics["bytes_per_token"] < 6
    encoded = loaded.apply_chat_template(
        [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}],
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    assert sum(encoded["assistant_masks"]) > 0


def test_token_shards_hold_every_kept_document_once_without_control_tokens(prepared: Prepared) -> None:
    metrics = prepared.tokens.manifest.metrics
    loaded = AutoTokenizer.from_pretrained(prepared.tokenizer.uri)
    texts = {
        doc_id(shard.number, int(row)): text
        for shard in read_shard_table(prepared.dedupe.uri)
        for batch, rows in read_kept(prepared.dedupe.uri, shard, ["text"])
        for text, row in zip(batch.column("text").to_pylist(), rows, strict=True)
    }
    decoded = {}
    for heldout in (False, True):
        for shard in open_shards(prepared.tokens.uri, heldout=heldout):
            for row, identifier in enumerate(shard.doc_ids_D.tolist()):
                ids = shard.document(row).tolist()
                assert ids[-1] == metrics["end_of_text_id"] == loaded.bos_token_id
                assert not set(ids[:-1]) & set(loaded.all_special_ids)
                decoded[identifier] = loaded.decode(ids[:-1])
    assert decoded == texts
    assert sum("<|im_end|>" in text for text in texts.values()) == 1
    assert metrics["documents"] + metrics["heldout_documents"] == len(texts)
    assert metrics["heldout_documents"] > 0
    assert metrics["encoders"] == {"compiled": 3}
    index = read_token_index(prepared.tokens.uri)
    assert sum(entry.num_tokens for entry in index if not entry.heldout) == metrics["tokens"]
    assert sum(entry.num_tokens for entry in index if entry.heldout) == metrics["heldout_tokens"]


def checksums(prepared: Prepared) -> dict[str, Any]:
    shards = read_shard_table(prepared.dedupe.uri)
    return {
        "parts": [(s.documents.sha256, s.signatures.sha256, s.dropped.sha256, s.quarantined.sha256) for s in shards],
        "removals": [s.removals.sha256 if s.removals else None for s in shards],
        "tokenizer": {f.name: f.sha256 for f in prepared.tokenizer.files()},
        "tokens": [e.sha256 for e in read_token_index(prepared.tokens.uri)],
        "metrics": [a.manifest.metrics for a in (prepared.clean, prepared.dedupe, prepared.tokenizer, prepared.tokens)],
    }


def test_the_same_bytes_come_out_of_one_worker(prepared: Prepared, corpus: Corpus, tmp_path: Path) -> None:
    assert checksums(prepare(tmp_path, corpus, max_workers=1)) == checksums(prepared)


def test_a_killed_run_goes_on_and_one_more_file_costs_one_more_file(
    prepared: Prepared, corpus: Corpus, tmp_path: Path
) -> None:
    place = Storage(tmp_path)
    before = read_shard_table(place.run(clean.run, clean_config(corpus.first), "before").uri)
    after = read_shard_table(place.run(clean.run, clean_config(*corpus.files), "after").uri)
    assert [shard.number for shard in after] == [0, 1, 2]
    assert after[1].documents == before[0].documents, "the file written before, its attempt's name included"
    expected = read_shard_table(prepared.clean.uri)
    assert [s.documents.sha256 for s in after] == [s.documents.sha256 for s in expected]


def test_a_trained_classifier_judges_in_clean_and_parts_are_those_of_the_model(corpus: Corpus, tmp_path: Path) -> None:
    place = Storage(tmp_path)
    spam = [json.dumps({"text": " ".join(["buy", "cheap", "pills", "here", "now"] * 10)})] * 40
    (tmp_path / "spam.jsonl").write_text("\n".join(spam))
    settings = QualityClassifierConfig(
        positive=[str(corpus.second)], negative=[str(tmp_path / "spam.jsonl")], dimensions=4, buckets=2_200_000,
        worker=HALF_CPU, epochs=20,
    )  # fmt: skip
    model = place.run(quality_classifier.run, settings)
    assert model.manifest.metrics["num_negative"] == 40
    (tmp_path / "mixed.jsonl").write_text("\n".join([*spam[:5], *corpus.first.read_text().splitlines()[-20:]]))
    lenient = clean_config(tmp_path / "mixed.jsonl", gopher_quality=None, language_threshold=0, classifier="x")
    cleaned = place.run(clean.run, lenient, classifier=model)
    assert cleaned.manifest.metrics["dropped"] == {"low_quality": 5}
    assert cleaned.manifest.metrics["kept"] == 20
    (shard,) = read_shard_table(cleaned.uri)
    assert shard.parts.endswith(model.manifest.fingerprint)


def _touch_or_fail(shard: dict[str, Any]) -> int:
    """Does what the shard's name says, and touches its file if it comes so far."""
    path = Path(shard["uri"])
    attempts = len(list(path.parent.glob(f"{path.name}.attempt-*")))
    path.with_name(f"{path.name}.attempt-{attempts}").touch()
    if path.name == "bad":
        raise InputError("not to be read")
    if path.name == "away" or (path.name == "away-twice" and attempts < 2):
        raise StorageError("the store said no")
    if path.name == "bug":
        raise KeyError("nobody thought of this")
    if path.name == "killer" or (path.name == "killed-once" and attempts < 1):
        os.kill(os.getpid(), signal.SIGKILL)
    path.touch()
    return 1


def test_shards_that_fail_are_named_and_the_others_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataprep.ray_tasks._MAX_CRASHES", 2)
    names = ["a", "away", "away-twice", "bad", "bug", "killed-once", "killer", "z"]
    with pytest.raises(StageFailed) as failed:
        run_shard_tasks(
            _touch_or_fail,
            [{"uri": str(tmp_path / name)} for name in names],
            workers=HALF_CPU,
            max_workers=None,
            progress=SilentProgress(),
            already_done=AlreadyDone(shards_done=0, documents_done=0),
            log_directory=tmp_path / "logs",
            backoff=Backoff(attempts=3, first_wait_s=0.1),
        )
    head, *lines, log = str(failed.value).splitlines()
    assert head.startswith("4 of 8 shards failed; run again to retry these alone")
    assert [line.removeprefix(f"  - {tmp_path}/") for line in lines] == [
        "away: StorageError: the store said no",
        "bad: InputError: not to be read",
        "bug: KeyError: 'nobody thought of this'",
        "killer: its worker died 2 times",
    ]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name in names) == [
        "a", "away-twice", "killed-once", "z"
    ]  # fmt: skip
    attempts = {name: len(list(tmp_path.glob(f"{name}.attempt-*"))) for name in names}
    assert attempts == dict(zip(names, [1, 3, 3, 1, 1, 2, 2, 1], strict=True))
    trace = Path(log.removeprefix("stack traces: ")).read_text()
    assert "nobody thought of this" in trace
    assert "in _touch_or_fail" in trace
    assert "the store said no" not in trace


def test_an_error_in_a_task_comes_out_as_itself(prepared: Prepared, tmp_path: Path) -> None:
    nothing = Storage(tmp_path).run(clean.run, clean_config(SAMPLES / "web-00000.warc.gz", languages=["eo"]))
    with pytest.raises(InputError, match="has no documents"):
        Storage(tmp_path).run(dedupe.run, DedupeConfig(parts="clean"), parts=nothing)
    short = DedupeConfig(parts="clean", fuzzy={"bands": 20, "rows": 20})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="need 400 hashes; the clean stage made 160"):
        Storage(tmp_path).run(dedupe.run, short, parts=prepared.clean)
    other = TokenizeConfig(documents="dedupe", tokenizer="tokenizer", end_of_text="</s>")
    with pytest.raises(InputError, match="'</s>' is no token"):
        Storage(tmp_path).run(tokenize.run, other, documents=prepared.dedupe, tokenizer=prepared.tokenizer)


def test_the_shipped_sample_is_cleaned_with_its_oddities_counted(tmp_path: Path) -> None:
    place = Storage(tmp_path)
    warcs = sorted(SAMPLES.glob("*.warc.gz"))
    metrics = place.run(clean.run, clean_config(*warcs, languages=["en"])).manifest.metrics
    assert metrics["read"] == 1014 + 2 + 2 + 2
    assert metrics["quarantined"] == 0
    for reason in ("http_status", "content_type", "empty_body"):
        assert metrics["dropped"][reason] == 2
    assert len(metrics["languages_seen"]) >= 10
    assert set(metrics["languages"]) == {"en"}
    deduped = place.run(
        dedupe.run, DedupeConfig(parts="clean", workers=HALF_CPU), parts=open_artifact(str(tmp_path / "clean" / "0"))
    )
    removed = deduped.manifest.metrics["removed"]
    assert removed["exact_duplicate"] > 0
