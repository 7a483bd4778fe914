"""What pre-training reads: held-out sources told apart, copies that keep their room, and what was trained on."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pytest

from cluster.contracts import storage
from cluster.contracts.tokens import ShardEntry, write_token_index, write_token_shard
from training.data.sampler import IGNORE_INDEX
from training.pretrain.config import PretrainConfig
from training.pretrain.job import PretrainJob
from training.pretrain.open_data import MOST_SOURCES, open_heldout, open_training, shard_cache, tokens_of_what

LENGTH = 20  # tokens of a document, and of a sample


def write_store(
    directory: Path, documents: dict[str, int], *, heldout: bool = False, first: int = 0
) -> list[ShardEntry]:
    """A shard for each source, with so many documents; its tokens are all the source's number, from `first` on."""
    entries = []
    for number, (source, count) in enumerate(documents.items(), start=first):
        path = directory / f"{number}.arrow"
        with open(path, "wb") as sink:
            tokens_T, offsets = np.full(count * LENGTH, number, np.uint16), np.arange(count + 1) * LENGTH
            write_token_shard(sink, tokens_T, offsets, np.arange(count), [source] * count)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        entries.append(
            ShardEntry(path.name, path.stat().st_size, digest, count, count * LENGTH, heldout, source=source)
        )
    return entries


def job_of(tokens: str, output: Path, **settings: Any) -> PretrainJob:
    config = PretrainConfig(tokens=tokens, tokenizer="-", model="tiny", steps=1, sequence_length=LENGTH, **settings)
    return PretrainJob(config, tokens, "-", "-", None, str(output), seed=1)


@pytest.mark.parametrize("place", [0, MOST_SOURCES])
def test_each_heldout_token_is_measured_once_where_a_source_is_called_other(place: int, tmp_path: Path) -> None:
    names = [f"source-{number}" for number in range(MOST_SOURCES + 2)]
    names[place] = "other"  # of the large ones, or of the rest
    sizes = {name: 100 - number for number, name in enumerate(names)}
    write_token_index(str(tmp_path), write_store(tmp_path, sizes, heldout=True))
    found = {name: sampler.num_tokens for name, sampler in open_heldout(job_of(str(tmp_path), tmp_path)).items()}
    rest = "(other)" if place == 0 else "other"
    assert list(found) == [*names[:MOST_SOURCES], rest]
    assert sum(found.values()) == LENGTH * sum(sizes.values())
    assert found[rest] == LENGTH * (sizes[names[-1]] + sizes[names[-2]])


def test_copies_of_heldout_shards_keep_their_room_while_training_goes_through_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locate(uri: str) -> tuple[pafs.FileSystem, str]:
        return pafs.LocalFileSystem(), uri.removeprefix("far://")

    monkeypatch.setattr(storage, "locate", locate)  # a directory here, as a store elsewhere
    store, cache = tmp_path / "store", tmp_path / "cache"
    store.mkdir()
    entries = write_store(store, {f"web-{number}": 200 for number in range(12)})
    (kept,) = write_store(store, {"heldout": 200}, heldout=True, first=12)
    write_token_index(str(store), [*entries, kept])
    settings = {"shuffle": "windows", "shuffle_window": 200, "data_cache_gib": 5.5 * kept.size / 2**30}
    job = job_of(f"far://{store}", tmp_path, data_cache=str(cache), **settings)
    train = open_training(job)
    (heldout,) = open_heldout(job).values()
    for first in range(0, train.num_samples, 100):
        train.batch(np.arange(first, min(first + 100, train.num_samples)))
        assert (cache / f"{kept.sha256}.arrow").exists()
    assert len(list(cache.glob("*.arrow"))) <= 5  # others did make room
    assert set(heldout.batch(np.arange(3)).input_ids_BT.ravel().tolist()) == {12}
    assert shard_cache(job.config) is not shard_cache(job.config.model_copy(update={"data_cache": "/elsewhere"}))


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
@pytest.mark.parametrize("epochs", [0.25, 1.0, 1.6])
def test_sources_trained_on_are_those_of_the_windows_visited(packing: str, epochs: float, tmp_path: Path) -> None:
    documents = {"books": 900, "web": 2000, "code": 700}
    write_token_index(str(tmp_path), write_store(tmp_path, documents))
    job = job_of(str(tmp_path), tmp_path, shuffle="windows", shuffle_window=150, packing=packing)
    sampler = open_training(job)
    num_samples = round(epochs * sampler.num_samples)
    labels_BT = sampler.batch(np.arange(num_samples)).labels_BT
    visited = Counter(labels_BT[labels_BT != IGNORE_INDEX].tolist())
    found = tokens_of_what(job, sampler, num_samples * LENGTH)["source"]
    assert sum(found.values()) == pytest.approx(num_samples * LENGTH, abs=len(documents))
    for number, source in enumerate(documents):
        # Off by the last window, which counts in proportion.
        share = visited[number] / visited.total()
        assert found.get(source, 0) / (num_samples * LENGTH) == pytest.approx(share, abs=150 / num_samples)
    if epochs == 0.25:  # the store's shares would have been wrong
        in_store = 2000 / sum(documents.values())
        assert abs(found["web"] / (num_samples * LENGTH) - in_store) > 150 / num_samples


def test_sources_trained_on_have_the_stores_shares_where_samples_come_from_anywhere(tmp_path: Path) -> None:
    write_token_index(str(tmp_path), write_store(tmp_path, {"books": 25, "web": 75}))
    job = job_of(str(tmp_path), tmp_path)
    found = tokens_of_what(job, open_training(job), 40 * LENGTH)
    assert found["source"] == {"web": 30 * LENGTH, "books": 10 * LENGTH}
    assert found["min_length"] == {"0": 40 * LENGTH}
