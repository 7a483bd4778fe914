"""The reward model on rankings, scores and margins, through the real trainer in this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from benchmarks.post_training.hidden_scorer import HiddenScorer
from cluster.contracts.artifacts import Artifact, Manifest, StageContext, StageResult
from cluster.contracts.commit import commit_part
from cluster.contracts.progress import SilentProgress
from cluster.contracts.reward_scale import read_reward_scale
from tests.chat_fixtures import make_model_directory
from tests.integration.single_rank import one_rank
from tests.unit.training.feedback.feedback_rows import pair, ranking
from tests.unit.training.preferences.test_scored_candidates import ANSWER as CANDIDATE
from training.candidates.artifact import ANSWERS, CandidatePrompt, candidates_parquet
from training.feedback.artifact import FILES, rows_parquet
from training.feedback.conversions import PairRule
from training.feedback.pairs import read_pairs
from training.feedback.rows import FeedbackRow
from training.inference.sequence_scores import rewards
from training.launch.workers import run_in_process
from training.metrics.metrics_log import METRICS, read_metrics
from training.models import load_reward_model
from training.post_training import reward_model
from training.post_training.config import RewardModelConfig
from training.preferences import stage as preferences
from training.preferences.config import PreferencesConfig
from training.tokenizers import load_encoder

assert one_rank  # the fixture of that name, for this module too


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reward_kinds")
    make_model_directory(root / "base")
    return root


def train(root: Path, name: str, rows: list[FeedbackRow], heldout: list[FeedbackRow], **settings: Any) -> StageResult:
    preferences = root / f"{name}-preferences"
    preferences.mkdir()
    (preferences / FILES["train"]).write_bytes(rows_parquet(rows, "train", PairRule()))
    (preferences / FILES["heldout"]).write_bytes(rows_parquet(heldout, "heldout", PairRule()))
    shared: dict[str, Any] = {"lr": 3e-3, "max_length": 128, "global_batch_size": 8, "zero_stage": 0}
    config = RewardModelConfig(model="base", preferences="preferences", **{**shared, **settings})
    inputs = {
        "model": Artifact(str(root / "base"), Manifest("pretrain", "base", {}, {})),
        "preferences": Artifact(str(preferences), Manifest("preferences", name, {}, {})),
    }
    context = StageContext("reward_model", SilentProgress(), root / "scratch", root / "logs", seed=7)
    return reward_model.run(config, inputs, str(root / name), context, launch=run_in_process)


def losses(root: Path, name: str) -> list[float]:
    return [row["loss"] for row in read_metrics(root / name / METRICS)]


def test_a_reward_model_of_rankings_recovers_a_hidden_scorers_order_of_held_out_prompts(root: Path) -> None:
    scorer = HiddenScorer(seed=0)
    result = train(
        root,
        "rankings",
        scorer.rankings(160, start=0),
        scorer.rankings(40, start=1000),
        epochs=6,
        lr=2e-3,
        normalize_rewards=True,
    )
    assert result.metrics["heldout_kendall_tau"] >= 0.8
    assert result.metrics["num_train_groups"] == 160
    scale = read_reward_scale(root / "rankings")
    assert (scale.applied, scale.mean) == (True, pytest.approx(result.metrics["train_reward_mean"]))
    model = load_reward_model(root / "rankings")
    plain = AutoModelForSequenceClassification.from_pretrained(root / "rankings").eval()
    with torch.inference_mode():
        expected = (plain(torch.tensor([[5, 6, 7]])).logits.item() - scale.mean) / scale.std
    assert rewards(model, [[5, 6, 7]], pad_token_id=3).item() == pytest.approx(expected, abs=1e-5)


def test_a_reward_model_of_scores_learns_the_scores_of_single_answers(root: Path) -> None:
    scorer = HiddenScorer(seed=0)
    train_rows, heldout = scorer.scores(320, start=0), scorer.scores(60, start=1000)
    result = train(root, "scores", train_rows, heldout, epochs=4, learn="scores")
    assert result.metrics["heldout_score_correlation"] > 0.8
    assert "heldout_pair_accuracy" not in result.metrics  # no prompt has two answers


@pytest.mark.parametrize("compare", ["last_token", "every_token"])
def test_rankings_of_two_and_pairs_with_margins_give_the_losses_of_trls_rows(root: Path, compare: str) -> None:
    scorer = HiddenScorer(seed=1)
    rows = [
        pair(row["prompt"][0]["content"], *(row["answers"][n][0]["content"] for n in order), margin=0.25)
        for row in scorer.rankings(24, start=0)
        for order in [sorted(range(4), key=row["ranks"].__getitem__)[:2]]
    ]
    heldout = rows[:4]
    weighted = [{**row, "weight": 1.0} for row in rows[:-1]] + [{**rows[-1], "weight": 1.000001}]
    train(root, f"trl-{compare}", [*rows], [*heldout], compare=compare)
    train(root, f"groups-{compare}", weighted, [*heldout], compare=compare)  # type: ignore[arg-type]
    assert losses(root, f"groups-{compare}") == pytest.approx(losses(root, f"trl-{compare}"), abs=1e-4)


def test_micro_batches_and_their_number_change_no_loss(root: Path) -> None:
    rows: list[FeedbackRow] = [*HiddenScorer(seed=2).rankings(16, start=0)]
    rows += [ranking("Which?", ["One of them.", "Neither of them."], [1, 2], weight=3.0)] * 8
    train(root, "whole", rows, rows[:4], micro_batch_size=8)
    train(root, "cut", rows, rows[:4], micro_batch_size=2)
    assert losses(root, "cut") == pytest.approx(losses(root, "whole"), abs=1e-4)


def test_candidates_scored_by_the_reward_model_become_pairs_of_best_over_worst(root: Path) -> None:
    """On the model that `test_a_reward_model_of_rankings...` left; without it, on one that is trained here."""
    scorer = HiddenScorer(seed=0)
    if not (root / "rankings").exists():
        train(root, "rankings", [*scorer.rankings(24, start=0)], [*scorer.rankings(4, start=500)], epochs=1)
    sides = (("train", 0), ("heldout", 600))
    rows = [(row, split) for split, start in sides for row in scorer.rankings(8, start=start)]
    prompts = [
        (CandidatePrompt(str(number), row["prompt"], split), row["answers"])  # type: ignore[arg-type]
        for number, (row, split) in enumerate(rows)
    ]
    candidates = [
        (prompt, replace(CANDIDATE, number=number, answer=answer[0]["content"]))
        for prompt, answers in prompts
        for number, answer in enumerate(answers)
    ]
    with commit_part(str(root / "candidates"), "sft-0") as part, part.open(ANSWERS, "answers.parquet") as sink:
        sink.write(candidates_parquet(candidates))
    inputs = {
        "candidates": Artifact(str(root / "candidates"), Manifest("candidates", "c", {}, {})),
        "scored_by": Artifact(str(root / "rankings"), Manifest("reward_model", "r", {}, {})),
    }
    config = PreferencesConfig(candidates="candidates", scored_by="rm", pairs_of_a_prompt="best_and_worst")
    context = StageContext("preferences", SilentProgress(), root / "scratch", root / "logs")
    result = preferences.run(config, inputs, str(root / "sampled"), context, launch=run_in_process)
    assert (result.metrics["num_train_pairs"], result.metrics["num_heldout_pairs"]) == (8, 8)
    model = load_reward_model(root / "rankings")
    encoder = load_encoder(root / "rankings", pads_apart=True)
    for found, (prompt, answers) in zip(read_pairs(str(root / "sampled"))[0], prompts, strict=False):
        ids = [encoder.encode_finished([*prompt.messages, *answer]) for answer in answers]
        own = rewards(model, ids, pad_token_id=model.config.pad_token_id).tolist()
        assert found["chosen"] == answers[own.index(max(own))]
        assert found["rejected"] == answers[own.index(min(own))]


@pytest.mark.parametrize(("name", "learn"), [("measured-groups", "comparisons"), ("measured-scores", "scores")])
def test_rankings_and_scores_are_measured_while_training_goes_on(root: Path, name: str, learn: str) -> None:
    scorer = HiddenScorer(seed=1)
    make = scorer.rankings if learn == "comparisons" else scorer.scores
    train(root, name, make(16, start=0), make(8, start=1000), learn=learn, eval_every_steps=1)
    measured = [row["eval_loss"] for row in read_metrics(root / name / METRICS) if "eval_loss" in row]
    assert len(measured) == len(losses(root, name))
    assert all(loss > 0 for loss in measured)
