"""Bar 6: does a reward model from rankings recover a hidden scorer's order of answers to held-out prompts?

The stage trains a made-up model of two layers on rankings of four answers, in this process, and its own figure is the
bar's: Kendall's tau with the scorer's order, the mean over the held-out prompts. Beside it, the tau of a model that was
given the same rankings as pairs of best and worst alone.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.post_training.hidden_scorer import HiddenScorer
from cluster.contracts.artifacts import Artifact, Manifest, StageContext
from cluster.contracts.progress import SilentProgress
from training.feedback.artifact import FILES, rows_parquet
from training.feedback.conversions import PairRule

NUM_TRAIN, NUM_HELDOUT = 200, 100
SEEDS = (3, 4, 5)  # not 0, 1 and 2, by which the number of passes was chosen


def tau(root: Path, *, seed: int, rule: PairRule) -> float:
    """The stage's tau on held-out prompts for one hidden scorer; everything is written below `root`."""
    from tests.chat_fixtures import make_model_directory
    from training.launch.workers import run_in_process
    from training.post_training import reward_model
    from training.post_training.config import RewardModelConfig

    make_model_directory(root / "base")
    scorer = HiddenScorer(seed=seed)
    preferences = root / "preferences"
    preferences.mkdir()
    train, heldout = scorer.rankings(NUM_TRAIN, start=0), scorer.rankings(NUM_HELDOUT, start=NUM_TRAIN)
    (preferences / FILES["train"]).write_bytes(rows_parquet(train, "train", rule))
    (preferences / FILES["heldout"]).write_bytes(rows_parquet(heldout, "heldout", rule))
    config = RewardModelConfig(
        model="base", preferences="preferences", epochs=8, lr=2e-3, max_length=128, global_batch_size=8, zero_stage=0
    )
    inputs = {
        "model": Artifact(str(root / "base"), Manifest("pretrain", "base", {}, {})),
        "preferences": Artifact(str(preferences), Manifest("preferences", "rankings", {}, {})),
    }
    context = StageContext("reward_model", SilentProgress(), root / "scratch", root / "logs", seed=seed)
    result = reward_model.run(config, inputs, str(root / "reward_model"), context, launch=run_in_process)
    return float(result.metrics["heldout_kendall_tau"])


def figures() -> list[Figure]:
    """The lowest tau over some hidden scorers."""
    found: dict[str, list[float]] = {"all": [], "best_and_worst": []}
    for which, taus in found.items():
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as directory:
                taus.append(tau(Path(directory), seed=seed, rule=PairRule(which)))  # type: ignore[arg-type]
    note = (
        f"{NUM_TRAIN} rankings of 4 answers, {NUM_HELDOUT} held-out prompts, {len(SEEDS)} hidden scorers: "
        + "; ".join(
            f"{which.replace('_', ' ')} {', '.join(f'{value:.3f}' for value in taus)}" for which, taus in found.items()
        )
    )
    lowest = min(found["all"])
    return [
        Figure(
            "6",
            "Kendall's tau of rewards on held-out prompts, lowest",
            "tau",
            lowest,
            0.8,
            ours=lowest,
            note=note,
            module="post_training",
        )
    ]
