"""Bar 2: our stages beside plain TRL on the same token ids, step by step.

Each stage trains on a made-up model and conversations; the rows that it gives its trainer are then given to plain TRL
(`plain_trl.py`) in a process of its own, with the same settings. A stage on two ranks is started by `torchrun`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from benchmarks.post_training.plain_trl import Kind, PlainResult, PlainRun, run_plain
from cluster.contracts.progress import Progress, SilentProgress

SEED = 7
SETTINGS: dict[str, Any] = {
    "lr": 2e-3,
    "weight_decay": 0.1,
    "max_length": 128,
    "global_batch_size": 8,
    "checkpoint_every_steps": 1000,
    "epochs": 1.0,
}
LORA = {"rank": 4, "alpha": 8.0, "target_modules": ["q_proj", "v_proj"]}


@dataclass(frozen=True)
class Case:
    """One run of ours, to be held against plain TRL's."""

    kind: Kind
    zero_stage: int = 0
    lora: bool = False
    num_workers: int = 1

    @property
    def name(self) -> str:
        """Also the directory that its output goes to."""
        return f"{self.kind}-zero{self.zero_stage}{'-lora' if self.lora else ''}-{self.num_workers}"


ONE_RANK = [Case(kind, lora=lora) for kind in ("sft", "reward_model", "dpo", "kto") for lora in (False, True)]
TWO_RANKS = [
    Case(kind, zero_stage=stage, lora=lora, num_workers=2)
    for kind in ("sft", "reward_model", "dpo", "kto")
    for stage, lora in ((2, False), (3, False), (2, True))
]


def make_inputs(root: Path, *, num_conversations: int = 60) -> None:
    """A small model with its tokenizer, conversations and preferences below `root`."""
    from cluster.contracts.artifacts import StageContext
    from tests.chat_fixtures import make_conversations, make_model_directory, write_conversations
    from training.preferences import stage as preferences
    from training.preferences.config import PreferencesConfig

    make_model_directory(root / "model")
    rows = write_conversations(root / "rows.jsonl", num_conversations)
    conversations = make_conversations(root / "conversations", [rows])
    config = PreferencesConfig(conversations="conversations", disturbed_per_answer=1)
    context = StageContext("preferences", SilentProgress(), root / "scratch", root / "logs", seed=SEED)
    preferences.run(config, {"conversations": conversations}, str(root / "pairs"), context)


def run_ours(root: Path, case: Case, progress: Progress | None = None, **changes: Any) -> None:
    """Run the stage below `root / case.name`, and write the rows that it gave its trainer to `rows.json` there.

    Under `torchrun` every rank calls it; `rows.json` is rank 0's.
    """
    from cluster.contracts.artifacts import Artifact, Manifest, StageContext
    from training.conversations.encoding import EncodedRows
    from training.launch.workers import run_in_process
    from training.post_training import dpo, kto, reward_model, sft
    from training.post_training.config import DpoConfig, KtoConfig, RewardModelConfig, SftConfig

    module, config_class = {
        "sft": (sft, SftConfig),
        "reward_model": (reward_model, RewardModelConfig),
        "dpo": (dpo, DpoConfig),
        "kto": (kto, KtoConfig),
    }[case.kind]
    learned = ("conversations", "conversations") if case.kind == "sft" else ("preferences", "pairs")
    config = config_class(
        **{
            "model": "model",
            learned[0]: learned[1],
            **SETTINGS,
            "zero_stage": case.zero_stage,
            "lora": LORA if case.lora else None,
            "workers": {"num_workers": case.num_workers},
            **changes,
        }
    )
    inputs = {
        "model": Artifact(str(root / "model"), Manifest("pretrain", "model", {}, {})),
        learned[0]: Artifact(str(root / learned[1]), Manifest(learned[0], learned[1], {}, {})),
    }
    context = StageContext(case.kind, progress or SilentProgress(), root / "scratch", root / "logs", seed=SEED)
    # SFT's rows lie in a file, and the other stages make theirs.
    owner, name = (EncodedRows, "dataset") if case.kind == "sft" else (module, "training_rows")
    make_rows = getattr(owner, name)

    def noted(*arguments: Any) -> Any:
        dataset = make_rows(*arguments)
        if os.environ.get("RANK", "0") == "0":
            (root / case.name).mkdir(exist_ok=True)
            (root / case.name / "rows.json").write_text(json.dumps(dataset.to_list()))
        return dataset

    setattr(owner, name, noted)
    try:
        module.run(config, inputs, str(root / case.name), context, launch=run_in_process)
    finally:
        setattr(owner, name, make_rows)


def run_two_ranks(root: Path, cases: Sequence[Case]) -> None:
    """`run_ours` for each case, all in one pair of processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    names = [json.dumps([case.kind, case.zero_stage, case.lora]) for case in cases]
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")}
    environment.update(PYTHONPATH=os.pathsep.join(filter(None, sys.path)), HF_HUB_OFFLINE="1")
    command += ["-m", "benchmarks.post_training.parity", str(root), *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"two ranks failed: {done.stderr[-3000:]}")


def our_losses(root: Path, case: Case) -> list[float]:
    """The losses that the stage logged."""
    lines = (root / case.name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def plain(root: Path, case: Case, **changes: Any) -> PlainResult:
    """Plain TRL on the rows of `run_ours`, on one rank."""
    arguments = {
        "learning_rate": SETTINGS["lr"],
        "weight_decay": SETTINGS["weight_decay"],
        "adam_beta2": 0.999,
        "max_grad_norm": 1.0,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "num_train_epochs": 1,
        "per_device_train_batch_size": SETTINGS["global_batch_size"],
        "max_length": SETTINGS["max_length"],
        **changes,
    }
    task = "SEQ_CLS" if case.kind == "reward_model" else "CAUSAL_LM"
    lora = {
        "r": LORA["rank"],
        "lora_alpha": LORA["alpha"],
        "target_modules": LORA["target_modules"],
        "modules_to_save": ["score"] if case.kind == "reward_model" else None,
        "task_type": task,
    }
    rows = json.loads((root / case.name / "rows.json").read_text())
    run = PlainRun(case.kind, str(root / "model"), rows, arguments, 3, lora if case.lora else None, SEED)
    return run_plain(run)


def largest_difference(root: Path, case: Case) -> float:
    """Between a loss of ours and plain TRL's at the same step."""
    ours, theirs = our_losses(root, case), plain(root, case).losses
    if len(ours) != len(theirs):
        raise RuntimeError(f"{case.name}: {len(ours)} steps of ours, {len(theirs)} of plain TRL")
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def figures() -> list[Figure]:
    """Bar 2: per-step losses of all stages beside plain TRL's."""
    with tempfile.TemporaryDirectory(prefix="raymill-parity-") as directory:
        root = Path(directory)
        make_inputs(root)
        for case in ONE_RANK:
            run_ours(root, case)
        run_two_ranks(root, TWO_RANKS)
        one = {case.name: largest_difference(root, case) for case in ONE_RANK}
        two = {case.name: largest_difference(root, case) for case in TWO_RANKS}
    return [
        _figure("2", "largest difference of a step's loss, one rank, ZeRO 0", one, 1e-5),
        _figure("2a", "largest difference of a step's loss, two ranks, ZeRO 2 and 3", two, 1e-3),
    ]


def _figure(bar: str, what: str, differences: Mapping[str, float], asked: float) -> Figure:
    note = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    return Figure(bar, what, "nats", max(differences.values()), asked, at_most=True, note=note, module="post_training")


if __name__ == "__main__":
    for text in sys.argv[2:]:
        kind, zero_stage, lora = json.loads(text)
        run_ours(Path(sys.argv[1]), Case(kind, zero_stage, lora, num_workers=2))
