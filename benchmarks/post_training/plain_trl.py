"""Plain TRL, as its documentation has it, on rows of token ids: what our stages are held against.

A process of its own, since Accelerate keeps its settings for the life of a process: `run_plain(PlainRun(...))` starts
it and gives its per-step losses and seconds. There is no DeepSpeed, no Ray and no checkpoint in it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Kind = Literal["sft", "reward_model", "dpo", "kto"]
_LEFT_BEHIND = ("ACCELERATE_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_")
_REFERENCE_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps", "ref_logps", "ref_KL_logps")


@dataclass(frozen=True)
class PlainRun:
    """A run of plain TRL; the rows in their order of training, as the stage gave them to its trainer."""

    kind: Kind
    model: str  # directory
    rows: Sequence[dict[str, Any]]
    arguments: dict[str, Any]  # of TRL's class of arguments
    pad_token_id: int
    lora: dict[str, Any] | None = None  # of PEFT's LoraConfig
    seed: int = 0


@dataclass(frozen=True)
class PlainResult:
    """What the process measured, a value a step."""

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # from the end of the step before; the first one is left out


def run_plain(run: PlainRun, *, threads: int = 1) -> PlainResult:
    """Run it in a process of its own. Raises `RuntimeError` with what it said last."""
    with tempfile.TemporaryDirectory() as directory:
        asked, told = Path(directory) / "run.json", Path(directory) / "result.json"
        asked.write_text(json.dumps(dataclasses.asdict(run)))
        environment = {
            # Without what a training in this process left behind.
            **{name: value for name, value in os.environ.items() if not name.startswith(_LEFT_BEHIND)},
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(threads),
        }
        command = [sys.executable, "-m", "benchmarks.post_training.plain_trl", str(asked), str(told)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"plain TRL failed: {done.stderr[-3000:]}")
        return PlainResult(**json.loads(told.read_text()))


def train(run: PlainRun, scratch: str) -> PlainResult:
    """Train by plain TRL in this process."""
    import torch
    import trl
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    seconds: list[float] = []

    class Clock(TrainerCallback):
        last = 0.0

        def on_step_end(self, *_: Any, **__: Any) -> None:
            now = time.perf_counter()
            if self.last:
                seconds.append(now - self.last)
            self.last = now

    class AsGiven:
        """Rows that are tokens already."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def _send_telemetry(self) -> None:
            pass

    trainer_class, arguments_class = {
        "sft": (trl.SFTTrainer, trl.SFTConfig),
        "reward_model": (trl.RewardTrainer, trl.RewardConfig),
        "dpo": (trl.DPOTrainer, trl.DPOConfig),
        "kto": (trl.KTOTrainer, trl.KTOConfig),
    }[run.kind]
    arguments = arguments_class(
        output_dir=scratch,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        train_sampling_strategy="sequential",
        optim="adamw_torch_fused",
        seed=run.seed,
        **run.arguments,
    )
    if run.kind == "reward_model":
        torch.manual_seed(run.seed)
        model = AutoModelForSequenceClassification.from_pretrained(
            run.model, num_labels=1, pad_token_id=run.pad_token_id, dtype=torch.float32
        )
    else:
        model = AutoModelForCausalLM.from_pretrained(run.model, dtype=torch.float32)
    more: dict[str, Any] = {}
    if run.kind in ("dpo", "kto") and run.lora is None:
        more["ref_model"] = AutoModelForCausalLM.from_pretrained(run.model, dtype=torch.float32)
    if run.lora is not None:
        more["peft_config"] = LoraConfig(**run.lora)
    rows = [{name: value for name, value in row.items() if name not in _REFERENCE_COLUMNS} for row in run.rows]
    trainer = type(trainer_class.__name__, (AsGiven, trainer_class), {})(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(run.model),
        callbacks=[Clock()],
        **more,
    )
    trainer.train()
    return PlainResult([row["loss"] for row in trainer.state.log_history if "loss" in row], seconds)


if __name__ == "__main__":
    result = train(PlainRun(**json.loads(Path(sys.argv[1]).read_text())), str(Path(sys.argv[1]).parent / "trainer"))
    Path(sys.argv[2]).write_text(json.dumps(dataclasses.asdict(result)))
