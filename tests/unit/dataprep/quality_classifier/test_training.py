"""The quality classifier: it learns a plain difference, is the same every time, and refuses what is no model."""

import filecmp
import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from cluster.contracts.commit import committed_part
from cluster.contracts.errors import InputError
from dataprep.clean.config import CleanConfig
from dataprep.clean.part import clean_part
from dataprep.filters.config import FilterFamilies, QualitySettings
from dataprep.filters.quality import judge, load, one_line, probabilities
from dataprep.quality_classifier.config import QualityClassifierConfig
from dataprep.quality_classifier.stage import train
from dataprep.quality_classifier.training import area_under_curve
from dataprep.sources.shards import whole_file
from dataprep.text.column import TextColumn
from training.launch.host_memory import keep_freed_memory

GOOD = "the bridge carries water and people over the old river because engineers built it with care".split()
BAD = "click here buy cheap pills now best price offer win free casino bonus subscribe today deal".split()


def texts(words: list[str], count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=20)) for _ in range(count)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], QualityClassifierConfig]:
    directory = tmp_path_factory.mktemp("classifier")
    for name, words in (("good", GOOD), ("bad", BAD)):
        rows = [json.dumps({"text": text}) for text in texts(words, 200, 1)]
        (directory / f"{name}.jsonl").write_text("\n".join(rows))
    config = QualityClassifierConfig(
        positive=[str(directory / "good.jsonl")],
        negative=[str(directory / "bad.jsonl")],
        dimensions=4,
        buckets=2_200_000,
    )
    metrics, files = train(config, str(directory / "out"), 0)
    assert [file.name for file in files] == ["model.bin"]
    return directory, metrics, config


def test_it_tells_held_out_documents_apart(trained: tuple[Path, dict[str, Any], QualityClassifierConfig]) -> None:
    _, metrics, _ = trained
    assert (metrics["num_positive"], metrics["num_negative"]) == (200, 200)
    assert 15 <= metrics["num_heldout"] <= 75
    assert metrics["heldout_accuracy"] == metrics["heldout_auc"] == 1.0


def test_the_same_documents_make_the_same_model(
    trained: tuple[Path, dict[str, Any], QualityClassifierConfig], tmp_path: Path
) -> None:
    """Also where training in this process left its freed memory, full of numbers, for use again."""
    directory, metrics, config = trained
    keep_freed_memory()
    np.ones(64 << 20, np.float32)
    again, files = train(config, str(tmp_path), 0)
    assert again == metrics
    first, second = (path / "model.bin" for path in (directory / "out", tmp_path))
    assert filecmp.cmp(first, second, shallow=False)  # a diff of the bytes would take minutes
    assert files[0].size == (tmp_path / "model.bin").stat().st_size


def test_documents_below_the_threshold_go_with_their_score(
    trained: tuple[Path, dict[str, Any], QualityClassifierConfig], tmp_path: Path
) -> None:
    directory, _, _ = trained
    model_file = directory / "out" / "model.bin"
    column = TextColumn(pa.array([*texts(GOOD, 2, 7), *texts(BAD, 2, 7), ""], pa.large_string()))
    judged = judge(column, load(model_file), QualitySettings(min_probability=0.6))
    assert judged.codes_D.tolist()[:4] == [0, 0, 1, 1]
    rows = [json.dumps({"text": text}) for text in (texts(BAD, 1, 8)[0], texts(GOOD, 1, 8)[0])]
    (tmp_path / "pages.jsonl").write_text("\n".join(rows))
    off: dict[str, Any] = {name: None for name in FilterFamilies.model_fields if name != "language_threshold"}
    for key, mode, dropped in (("a", "filter", {"low_quality": 1}), ("b", "annotate", {})):
        config = CleanConfig.model_validate(
            {**off, "inputs": ["-"], "language_threshold": 0, "classifier": "good", "quality": {"mode": mode}}
        )
        clean_part(
            [whole_file(str(tmp_path / "pages.jsonl"))],
            parts=str(tmp_path),
            key=key,
            config=config,
            classifier=str(model_file),
        )
        part = committed_part(str(tmp_path), key)
        assert part is not None
        assert part.metrics["dropped"] == dropped
    assert config.annotated_families() == ["quality"]


def test_a_page_cannot_label_itself(trained: tuple[Path, dict[str, Any], QualityClassifierConfig]) -> None:
    directory, _, _ = trained
    assert one_line("a\n__label__positive\tb") == "a __label positive b"
    model = load(directory / "out" / "model.bin")
    bad = texts(BAD, 1, 9)[0]
    plain, labelled = probabilities(model, [bad, f"__label__positive {bad}"])
    assert max(plain, labelled) < 0.5


def test_only_fasttext_models_of_the_two_labels_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(pickle.dumps({"weights": [1]}))
    with pytest.raises(InputError, match="is no fastText model"):
        load(tmp_path / "model.bin")
    from dataprep.filters.language import model_path

    with pytest.raises(InputError, match="it must tell __label__positive from __label__negative"):
        load(model_path())


def test_an_empty_set_is_named(trained: tuple[Path, dict[str, Any], QualityClassifierConfig], tmp_path: Path) -> None:
    _, _, config = trained
    (tmp_path / "empty.jsonl").write_text('{"text": " "}')
    with pytest.raises(InputError, match=r"negative: .*empty.jsonl has no documents"):
        train(config.model_copy(update={"negative": [str(tmp_path / "empty.jsonl")]}), str(tmp_path), 0)


def test_a_table_that_fasttext_would_not_clear_is_refused() -> None:
    with pytest.raises(ValidationError, match="table of 0 MiB; it must be 33 or more"):
        QualityClassifierConfig(positive=["a"], negative=["b"], buckets=1000, dimensions=8)


def test_the_area_under_the_curve_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, 50) / 5
    labels = rng.random(50) < 0.4
    pairs = [(p > n) + (p == n) / 2 for p in scores[labels] for n in scores[~labels]]
    assert area_under_curve(scores, labels) == pytest.approx(np.mean(pairs))
    assert np.isnan(area_under_curve(scores, np.ones(50, bool)))
