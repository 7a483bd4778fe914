"""What TRL's trainers are given beyond their losses: steps that are guarded, and checkpoints of our own store.

`stage_trainer` makes a subclass of a TRL trainer. Its losses and data handling stay TRL's. Its checkpoints are written
as pre-training writes them (`training/engine/resume.py`), so that a run goes on with any number of workers; and a
gradient that is nan or infinite is never applied, whatever the ZeRO stage.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from cluster.contracts.errors import StageFailed
from training.checkpoint.store import Checkpoint, CheckpointStore
from training.engine.deepspeed_engine import engine_files, guard_steps
from training.engine.resume import fetch, load
from training.launch.workers import Worker


class StageTrainer:
    """Mixed into a TRL trainer by `stage_trainer`; overrides what the trainer does around its steps.

    `begin_stage` comes before `train`, and `resume_directory` is what `train` is given.
    """

    def begin_stage(self: Any, worker: Worker, store: CheckpointStore, *, seed: int, zero_stage: int) -> None:
        """Look for a checkpoint to go on from. All ranks call it."""
        self.worker, self.store, self.stage_seed = worker, store, seed
        self.stage_state: dict[str, Any] = {}  # JSON that the stage keeps in checkpoints beside the trainer's own
        self.publish_log = lambda: None  # called on rank 0 before a checkpoint is committed
        self.restored: Checkpoint | None = fetch(store, worker, zero_stage=zero_stage)
        self.resume_directory: Path | None = None
        if self.restored is not None:
            self.stage_state = dict(self.restored.state["stage"])
            self.resume_directory = worker.scratch / "trainer_state"
            self.resume_directory.mkdir()
            now = {
                name: getattr(self.args, name)
                for name in ("train_batch_size", "logging_steps", "save_steps", "eval_steps")
            }
            state = {**self.restored.state["trainer"], **now}
            (self.resume_directory / "trainer_state.json").write_text(json.dumps(state))

    def _prepare_for_training(self: Any, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)  # type: ignore[misc]
        guard_steps(self.model_wrapped)
        # The learning rate follows the number of the step, whether a step was applied or not.
        self.optimizer.__has_overflow__ = False
        if self.restored is not None:
            load(self.model_wrapped, self.restored, self.worker, seed=self.stage_seed)
            self.lr_scheduler.load_state_dict(self.restored.state["lr_scheduler"])
            for group, lr in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
                group["lr"] = lr
            self._total_train_tokens = self.restored.state["num_tokens"]
            self._keep_random_state()
        return prepared

    def _keep_random_state(self: Any) -> None:
        """Note the random state that was just loaded: what the trainer draws before its first step is taken back."""
        self.random_state = {"cpu": torch.get_rng_state()}
        if self.worker.device.type == "cuda":
            self.random_state["cuda"] = torch.cuda.get_rng_state()

    def _load_rng_state(self: Any, checkpoint: str | None) -> None:
        if checkpoint is not None and self.restored is not None:
            torch.set_rng_state(self.random_state["cpu"])
            if "cuda" in self.random_state:
                torch.cuda.set_rng_state(self.random_state["cuda"])

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        step, worker = self.state.global_step, self.worker
        files = engine_files(self.model_wrapped, scratch=worker.scratch)
        if worker.is_main:
            self.publish_log()
        self.store.commit_rank(step, files, rank=worker.rank)
        worker.barrier()
        if worker.is_main:
            self.store.commit_step(step, world_size=worker.world_size, state=self._checkpoint_state())
        worker.barrier()

    def _checkpoint_state(self: Any) -> dict[str, Any]:
        state = self.state
        kept = ("global_step", "epoch", "total_flos", "num_input_tokens_seen")
        return {
            "trainer": {name: getattr(state, name) for name in kept},
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "num_tokens": getattr(self, "_total_train_tokens", 0),
            "stage": self.stage_state,
            "heldout_loss": self.stage_state.get("heldout_loss")
            if state.global_step == self.stage_state.get("measured")
            else None,
        }

    def load_best(self: Any) -> None:
        """Bring the engine back to the step of the lowest held-out loss. All ranks call it."""
        step = self.stage_state["best"]["best_step"]
        if step == self.state.global_step:
            return
        zero_stage = self.model_wrapped.zero_optimization_stage()
        found = fetch(self.store, self.worker, zero_stage=zero_stage, at_most=step)
        if found is None or found.step != step:
            raise StageFailed(f"the checkpoint of step {step}, the best one, is not intact; {self.store.uri}")
        load(self.model_wrapped, found, self.worker, seed=self.stage_seed)

    def _send_telemetry(self: Any) -> None:
        """TRL would tell its makers of each run."""


def stage_trainer(trainer_class: Any) -> Any:
    """`trainer_class` with what `StageTrainer` overrides."""
    return type(trainer_class.__name__, (StageTrainer, trainer_class), {})
