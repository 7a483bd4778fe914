"""The candidates stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from training.candidates.config import CandidatesConfig
from training.candidates.report_figures import CANDIDATES_FIGURES

_EXAMPLE = """\
stages:
  candidates:
    models: {sft: sft, dpo: dpo, own: models/my-own-dpo}  # a directory is told by its slash
    conversations: conversations
    answers_per_prompt: 4
    temperature: 0.8
    server: {num_replicas: 1, cpus: 1}
"""

CANDIDATES = StageKind(
    config=CandidatesConfig,
    function="cluster.candidates_stage:run",
    summary="sample answers from models",
    makes=(
        "Parquet with an answer a row: its prompt, text and token ids, the model's name and fingerprint, how it was "
        "sampled with which seed, its log-probability, and why it ended; and prompts that could not be answered, with "
        "the reason (`quarantined.parquet`)."
    ),
    example=_EXAMPLE,
    figures=CANDIDATES_FIGURES,
    runs_without_ray=True,
)
