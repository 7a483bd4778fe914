"""What a stage wrote, as sizes and checksums, and a finished stage that gives its result again."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cluster.contracts.artifacts import StageResult
from cluster.contracts.errors import InputError, StageFailed
from training.export import (
    commit_result,
    committed_result,
    copy_tokenizer,
    describe_files,
    export_model,
    publish_directory,
)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    directory = tmp_path / "local"
    (directory / "sub").mkdir(parents=True)
    (directory / "a.txt").write_text("hello")
    (directory / "sub" / "b.bin").write_bytes(bytes(100))
    return directory


def test_published_files_are_described_as_they_are_found(local: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    written = publish_directory(local, str(output))
    assert [(f.name, f.size) for f in written] == [("a.txt", 5), ("sub/b.bin", 100)]
    assert written[0].sha256 == hashlib.sha256(b"hello").hexdigest()
    assert describe_files(str(output)) == written


def test_markers_checkpoints_and_the_manifest_are_not_described(local: Path) -> None:
    for name in ("manifest.json", "files.parquet", "_committed/result.json", "checkpoints/step-1/x"):
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_text("{}")
    assert [f.name for f in describe_files(str(local))] == ["a.txt", "sub/b.bin"]


def test_a_committed_result_comes_back_equal(local: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "output")
    assert committed_result(output) is None
    result = StageResult({"loss": 0.1 + 0.2}, publish_directory(local, output), {"class": "DeepSpeedEngine"})
    commit_result(output, result)
    assert committed_result(output) == result


def test_a_result_whose_files_are_gone_does_not_count(local: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    commit_result(str(output), StageResult({}, publish_directory(local, str(output))))
    (output / "a.txt").unlink()
    assert committed_result(str(output)) is None


def test_a_directory_without_a_tokenizer_is_refused(local: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no tokenizer"):
        copy_tokenizer(str(local), tmp_path / "target")


def test_a_model_with_a_nan_is_never_exported(tmp_path: Path) -> None:
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    state = dict(model.state_dict())
    state["model.norm.weight"] = torch.full((8,), math.nan)
    with pytest.raises(
        StageFailed, match=r"1 of \d+ weights are nan or infinite \(model.norm.weight\); nothing is exp"
    ):
        export_model(model, state, tokenizer_uri="none", output=str(tmp_path / "out"), scratch=tmp_path)
    assert not (tmp_path / "out").exists()
