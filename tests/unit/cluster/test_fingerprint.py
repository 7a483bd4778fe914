"""A fingerprint changes with what changes results, and with nothing else."""

import os
from pathlib import Path
from typing import Any

import pytest

from cluster.fingerprint import file_identities, settings_fingerprint
from cluster.plan import make_plan
from cluster.spec import parse_spec
from dataprep.clean.config import CleanConfig


def _fingerprints(tmp_path: Path, **changes: Any) -> dict[str, str]:
    pages = tmp_path / "pages.jsonl"
    if not pages.exists():
        pages.write_text('{"text": "x"}\n')
    raw: dict[str, Any] = {
        "name": "t",
        "storage": "out",
        "stages": {
            "clean": {"inputs": ["pages.jsonl"]},
            "dedupe": {"parts": "clean"},
            "tokenizer": {"documents": "dedupe", "vocab_size": 300},
            "tokenize": {"documents": "dedupe", "tokenizer": "tokenizer"},
            "pretrain": {"tokens": "tokenize", "tokenizer": "tokenizer", "model": "tiny", "steps": 10},
        },
    }
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        target = raw
        for parent in parents:
            target = target.setdefault(parent, {})
        target[last] = value
    return {s.name: s.fingerprint for s in make_plan(parse_spec(raw, source="test", directory=tmp_path))}


def _changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_the_same_spec_has_the_same_fingerprints(tmp_path: Path) -> None:
    assert _fingerprints(tmp_path) == _fingerprints(tmp_path)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("storage", "elsewhere"),
        ("name", "other"),
        ("resources.cpus", 1),
        ("environment.env_vars", {"A": "b"}),
        ("stages.pretrain.workers", {"num_workers": 2, "cpus": 0.5}),
        ("stages.pretrain.micro_batch_size", 1),
    ],
)
def test_where_and_on_how_much_it_runs_changes_nothing(tmp_path: Path, change: str, value: Any) -> None:
    assert _changed(_fingerprints(tmp_path), _fingerprints(tmp_path, **{change: value})) == set()


def test_a_setting_changes_its_stage_and_what_depends_on_it(tmp_path: Path) -> None:
    before = _fingerprints(tmp_path)
    after = _fingerprints(tmp_path, **{"stages.tokenizer.vocab_size": 400})
    assert _changed(before, after) == {"tokenizer", "tokenize", "pretrain"}


def test_the_seed_changes_what_draws_by_it_and_what_depends_on_that(tmp_path: Path) -> None:
    changed = _changed(_fingerprints(tmp_path), _fingerprints(tmp_path, seed=7))
    assert changed == {"tokenizer", "tokenize", "pretrain"}


def test_a_touched_input_counts_by_stat_but_not_by_content(tmp_path: Path) -> None:
    by_stat, by_content = _fingerprints(tmp_path), _fingerprints(tmp_path, fingerprint_inputs="content")
    os.utime(tmp_path / "pages.jsonl", (1, 1))
    assert "clean" in _changed(by_stat, _fingerprints(tmp_path))
    assert _changed(by_content, _fingerprints(tmp_path, fingerprint_inputs="content")) == set()
    (tmp_path / "pages.jsonl").write_text('{"text": "y"}\n')
    assert "clean" in _changed(by_content, _fingerprints(tmp_path, fingerprint_inputs="content"))


def test_files_that_settings_name_count_by_their_content_wherever_they_lie(tmp_path: Path) -> None:
    for folder, words in (("a", "one\ntwo"), ("b", "one\ntwo"), ("c", "one\nthree")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "words.txt").write_text(words)

    def fingerprint(folder: str) -> str:
        files = [str(tmp_path / folder / "words.txt")]
        blocked = {"word_files": files}
        profiles = {"de": {"languages": ["de"], "bad_words": {"files": files}}}
        return settings_fingerprint(CleanConfig(inputs=["x"], url_blocklist=blocked, profiles=profiles), 0)  # type: ignore[arg-type]

    assert fingerprint("a") == fingerprint("b") != fingerprint("c")


def test_inputs_that_are_told_apart_are_others_wherever_they_lie(tmp_path: Path) -> None:
    for root in ("here", "there"):
        for name in ("a/1", "b/1"):
            (tmp_path / root / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / root / name).write_text("x")

    def of(*patterns: str) -> list[tuple[str, Any]]:
        return file_identities([str(tmp_path / pattern) for pattern in patterns], "content")

    assert of("here/*/1") == of("there/*/1")
    assert of("here/a/1", "here/b/1") == of("there/b/1", "there/a/1")
    assert of("here/*/1") != of("here/a/1", "here/b/1")
    (tmp_path / "there" / "b").rename(tmp_path / "there" / "c")
    assert of("here/*/1") != of("there/*/1")


def test_a_file_named_twice_is_another_input(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(name)
    a, b = str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")
    assert file_identities([a, b], "content") == file_identities([b, a], "content")
    assert file_identities([a, a], "content") != file_identities([a], "content")
