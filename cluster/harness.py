"""`raymill evaluate RUN --harness TASKS`: EleutherAI's lm-eval, asked of a run's model behind our own endpoint.

lm-eval runs in a process of its own and speaks to the server as any client of OpenAI's chat API does. So its generation
tasks (`generate_until`, such as gsm8k and ifeval) run on the very path that people use. Tasks that compare
log-probabilities of given texts are refused: a chat endpoint has none to give.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.contracts import storage
from cluster.contracts.errors import InputError, StageFailed
from cluster.run_record import RunRecord, run_uri
from cluster.serve import served_stage, servers
from cluster.terminal import Terminal

_REFUSED = "Loglikelihood"  # in what lm-eval raises for tasks that a chat endpoint can't do


@dataclass(frozen=True)
class Score:
    """One figure of one task."""

    task: str
    metric: str
    value: float
    standard_error: float | None


def evaluate_by_harness(
    record: RunRecord,
    tasks: Sequence[str],
    terminal: Terminal,
    *,
    stage: str | None,
    task_directory: Path | None,
    num_fewshot: int | None,
    limit: int | None,
    max_new_tokens: int,
    cpus: int,
    gpus: int,
) -> tuple[list[Score], str]:
    """(the scores, the URI of lm-eval's results). Raises `InputError` where lm-eval is missing or refuses the tasks."""
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError('--harness needs lm-eval, which is not installed: pip install "raymill[harness]"')
    policy = served_stage(record, stage)
    key = secrets.token_urlsafe(32)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    terminal.line(f"starting the {policy.kind} model of run {record.name}", style="dim")
    with (
        servers(record, policy, None, host="127.0.0.1", port=port, keys=[key], cpus=cpus, gpus=gpus) as url,
        tempfile.TemporaryDirectory(prefix="raymill-harness-") as scratch,
    ):
        terminal.line(f"lm-eval asks it {', '.join(tasks)}", style="dim")
        model_arguments = {
            "model": record.name,
            "base_url": f"{url}/v1/chat/completions",
            "num_concurrent": 8,
            "max_retries": 3,
            "tokenized_requests": False,
            "max_gen_toks": max_new_tokens,
        }
        command = [sys.executable, "-m", "lm_eval", "--model", "local-chat-completions", "--apply_chat_template"]
        command += ["--model_args", ",".join(f"{name}={value}" for name, value in model_arguments.items())]
        command += ["--tasks", ",".join(tasks), "--output_path", scratch, "--log_samples"]
        command += ["--include_path", str(task_directory)] if task_directory is not None else []
        command += ["--num_fewshot", str(num_fewshot)] if num_fewshot is not None else []
        command += ["--limit", str(limit)] if limit is not None else []
        environment = {**os.environ, "OPENAI_API_KEY": key}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        log = f"{done.stdout}\n{done.stderr}"
        if done.returncode != 0:
            raise _failure(log, tasks)
        return _results(Path(scratch), record)


def _failure(log: str, tasks: Sequence[str]) -> InputError | StageFailed:
    if _REFUSED in log:
        return InputError(
            f"of the tasks {', '.join(tasks)}, one compares log-probabilities of given texts, which the chat endpoint "
            "does not give; take generation tasks here, and multiple_choice in an evaluate stage's tasks"
        )
    lines = [line for line in log.strip().splitlines() if line.strip()]
    return StageFailed(f"lm-eval failed: {lines[-1] if lines else 'it said nothing'}")


def _results(directory: Path, record: RunRecord) -> tuple[list[Score], str]:
    """The scores in lm-eval's own file, which is kept beside the run's report."""
    found = sorted(directory.rglob("results_*.json"))
    if not found:
        raise StageFailed("lm-eval ended without results")
    target = run_uri(record.storage, record.name, "harness")
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        storage.write_bytes(storage.join(target, file.name), file.read_bytes())
    return scores_of(json.loads(found[-1].read_text())["results"]), storage.join(target, found[-1].name)


def scores_of(results: Mapping[str, Mapping[str, Any]]) -> list[Score]:
    """What lm-eval found: "METRIC,FILTER" and "METRIC_stderr,FILTER" of every task."""
    scores = []
    for task, figures in results.items():
        for name, value in figures.items():
            metric, comma, chosen = name.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = figures.get(f"{metric}_stderr,{chosen}")
            label = metric if chosen == "none" else f"{metric} ({chosen})"
            scores.append(Score(task, label, float(value), error if isinstance(error, float) else None))
    return scores
