"""The mixture: an index whose ranges come as often as asked, and whose figures say how many tokens of what."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.contracts.artifacts import Artifact, Manifest, StageContext
from cluster.contracts.errors import InputError
from cluster.contracts.progress import SilentProgress
from cluster.contracts.tokens import ShardEntry, open_shards, read_token_index, write_token_index, write_token_shard
from dataprep.mixture import stage as mixture
from dataprep.mixture.config import MixtureConfig

NUM_DOCUMENTS = 100
RANGES = (("de", 0, 0, 20), ("en", 0, 20, 50), ("en", 2048, 70, 30))  # language, least length, first, documents


def write_tokens(directory: Path, source: str, tokenizer: str = "t") -> Artifact:
    """A shard of documents of 10 tokens, each token its document's number, and a held-out one."""
    directory.mkdir(parents=True)
    entries = []
    for heldout in (False, True):
        path = directory / f"heldout-{heldout}.arrow"
        tokens = np.repeat(np.arange(NUM_DOCUMENTS), 10).astype(np.uint16)
        with open(path, "wb") as sink:
            offsets = np.arange(0, 10 * NUM_DOCUMENTS + 1, 10)
            write_token_shard(sink, tokens, offsets, np.arange(NUM_DOCUMENTS), [source] * NUM_DOCUMENTS)
        for language, length, first, count in RANGES:
            entries.append(
                ShardEntry(
                    path.name, path.stat().st_size, "", count, 10 * count, heldout, first, source, language, length
                )
            )
    write_token_index(str(directory), entries)
    return Artifact(str(directory), Manifest("tokenize", source, {}, {"tokenizer": tokenizer}))


def mix(root: Path, **settings: Any) -> tuple[str, dict[str, Any]]:
    inputs = {"tokenizer": Artifact(str(root), Manifest("tokenizer", "t", {}, {}))}
    for number, source in enumerate(("web-1.jsonl", "books.jsonl")):
        place = root / source
        inputs[f"tokens.{number}"] = write_tokens(place, source)
    config = MixtureConfig(tokens=["a", "b"], tokenizer="c", **settings)
    output = str(root / "mixture" / "f")
    result = mixture.run(config, inputs, output, StageContext("mixture", SilentProgress(), root, root))
    return output, result.metrics


def seen(output: str) -> Counter[tuple[str, int]]:
    """How often each document comes: (source, number) -> times."""
    return Counter(
        (shard.sources_D[row].as_py(), int(shard.document(row)[0]))
        for shard in open_shards(output, heldout=False)
        for row in range(len(shard))
    )


def test_without_weights_every_document_comes_once(tmp_path: Path) -> None:
    output, metrics = mix(tmp_path)
    assert set(seen(output).values()) == {1}
    assert metrics["tokens"] == 2000 == metrics["heldout_tokens"]
    assert metrics["by_language"] == {"de": 400, "en": 1600}
    assert metrics["by_min_length"] == {"0": 1400, "2048": 600}
    assert sum(len(shard) for shard in open_shards(output, heldout=True)) == 200


def test_weights_epochs_and_the_record_of_them_agree_with_the_tokens_read(tmp_path: Path) -> None:
    settings = {"sources": {"web-*": 0, "books*": 1}, "languages": {"de": 2}, "lengths": {2048: 1.5}}
    output, metrics = mix(tmp_path, **settings, total_tokens=1620)  # 200 x 2 + 500 + 300 x 1.5 = 1350, times 1.2
    weighted = {"books*/de/0": 2.4, "books*/en/0": 1.2, "books*/en/2048": 1.8}
    assert metrics["epochs"] == weighted | {"web-*/de/0": 0, "web-*/en/0": 0, "web-*/en/2048": 0}
    often = seen(output)
    assert {source for source, _ in often} == {"books.jsonl"}
    tokens = 10 * often.total()
    assert tokens == metrics["tokens"] == sum(metrics["by_language"].values())
    assert tokens == pytest.approx(1620, abs=30), "whole documents"
    long = [often["books.jsonl", n] for n in range(70, 100)]
    assert long == sorted(long, reverse=True), "the beginning of the range comes once more"
    assert np.mean(long) == pytest.approx(metrics["epochs"]["books*/en/2048"], abs=0.05)


def test_temperature_lifts_the_smaller_language_and_epochs_are_limited(tmp_path: Path) -> None:
    _, metrics = mix(tmp_path, temperature=2.0)
    assert metrics["by_language"]["en"] / metrics["by_language"]["de"] == pytest.approx(2, abs=0.1)
    _, limited = mix(tmp_path / "again", temperature=2.0, max_epochs=1.2)
    assert limited["epochs"]["other/de/0"] == 1.2


def test_the_index_lies_in_no_shard_of_its_own(tmp_path: Path) -> None:
    output, _ = mix(tmp_path)
    assert [path.name for path in Path(output).iterdir()] == ["tokens.parquet"]
    assert {entry.directory for entry in read_token_index(output)} == {"../../books.jsonl", "../../web-1.jsonl"}


def test_shards_of_another_tokenizer_and_an_empty_mixture_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="every group has weight 0"):
        mix(tmp_path, languages={"de": 0, "en": 0})
    inputs = {
        "tokens.0": write_tokens(tmp_path / "x", "x", tokenizer="other"),
        "tokenizer": Artifact("t", Manifest("tokenizer", "t", {}, {})),
    }
    config = MixtureConfig(tokens=["a"], tokenizer="c")
    with pytest.raises(InputError, match="was not made with the tokenizer"):
        mixture.run(config, inputs, str(tmp_path), StageContext("m", SilentProgress(), tmp_path, tmp_path))


def test_weights_of_what_is_not_there_are_refused_all_at_once(tmp_path: Path) -> None:
    weights: dict[str, Any] = {"sources": {"web-*": 2, "wbe-*": 3}, "languages": {"english": 9}, "lengths": {4096: 9}}
    with pytest.raises(
        InputError,
        match=r"sources: wbe-\* fits no training document \(there is books.jsonl, web-1.jsonl\); languages: english .*"
        r"\(there is de, en\); lengths: 4096 fits no .* \(there is 0, 2048\)",
    ):
        mix(tmp_path, **weights)


def test_weights_of_0_and_patterns_that_others_leave_nothing_to_are_fine(tmp_path: Path) -> None:
    _, metrics = mix(tmp_path, sources={"*.jsonl": 2, "web-*": 0.5}, languages={"zh": 0})
    assert metrics["by_source"].keys() == {"*.jsonl"}


def test_files_of_one_name_in_two_directories_are_two_sources(tmp_path: Path) -> None:
    inputs = {"tokenizer": Artifact(str(tmp_path), Manifest("tokenizer", "t", {}, {}))}
    for name in ("web", "books"):
        inputs[f"tokens.{name}"] = write_tokens(tmp_path / name, f"/data/{name}/part-0.jsonl")

    def by_source(sources: dict[str, float]) -> dict[str, int]:
        config = MixtureConfig(tokens=["a", "b"], tokenizer="c", sources=sources, total_tokens=1200)
        context = StageContext("mixture", SilentProgress(), tmp_path, tmp_path)
        found = mixture.run(config, inputs, str(tmp_path / "mixture"), context).metrics["by_source"]
        assert isinstance(found, dict)
        return found

    weighed = by_source({"books/*": 3, "part-*": 1})
    assert weighed == pytest.approx({"books/*": 900, "part-*": 300}, abs=30), "to whole documents of three ranges"
    with pytest.raises(InputError, match=r"boks/\* fits no training document \(there is books/part-0.jsonl, web/part"):
        by_source({"boks/*": 3})
