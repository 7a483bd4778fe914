"""What lm-eval leaves behind, as scores and as sentences."""

import importlib.util
from pathlib import Path

import pytest

from cluster.contracts.errors import InputError, StageFailed
from cluster.harness import Score, _failure, evaluate_by_harness, scores_of
from cluster.run_record import RunRecord
from cluster.terminal import quiet_terminal


def test_scores_are_read_with_their_standard_errors() -> None:
    results = {
        "gsm8k": {
            "alias": "gsm8k",
            "exact_match,strict-match": 0.25,
            "exact_match_stderr,strict-match": 0.05,
            "bleu,none": 1,
            "bleu_stderr,none": "N/A",
        }
    }
    assert scores_of(results) == [
        Score("gsm8k", "exact_match (strict-match)", 0.25, 0.05),
        Score("gsm8k", "bleu", 1.0, None),
    ]


def test_tasks_that_a_chat_endpoint_cannot_do_are_named_with_what_to_do() -> None:
    log = "NotImplementedError: Loglikelihood is not supported for chat completions."
    error = _failure(log, ["hellaswag"])
    assert isinstance(error, InputError)
    assert "multiple_choice in an evaluate stage's tasks" in str(error)
    other = _failure("a\nTasks were not found: sumz\n\n", ["sumz"])
    assert isinstance(other, StageFailed)
    assert "Tasks were not found: sumz" in str(other)


def test_a_missing_harness_is_named_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    record = RunRecord("demo", {}, {})
    with quiet_terminal(tmp_path / "log") as terminal, pytest.raises(InputError, match=r"raymill\[harness\]"):
        evaluate_by_harness(
            record, ["gsm8k"], terminal, stage=None, task_directory=None, num_fewshot=None, limit=None,
            max_new_tokens=16, cpus=1, gpus=0,
        )  # fmt: skip
