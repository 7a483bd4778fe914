"""Checks a spec's `trl:` block: further settings of TRL's trainers, by TRL's names.

What a stage says by settings of its own, or decides itself, is refused by name with what to set instead; this needs no
TRL, so that `raymill plan` tells it. Names and values are then judged by TRL's own class of arguments, in a process of
its own: the class takes hold of the process that makes it, and the driver is to stay free of that.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from cluster.contracts.errors import InputError

_PLACES = "the stage's artifact has a place of its own"
_ROWS = "rows are encoded by the stage, with the chat template that serving uses"
_HUB = "nothing is sent anywhere"
_WORKERS = "set workers and zero_stage, or the deepspeed block"
_LOGS = "every step is logged; set trackers"
_REFERENCE = "the reference's log-probabilities are made once, before training"
# What stands here begins the name of a setting, or is it.
_OWN: Mapping[str, str] = {
    "learning_rate": "set lr",
    "lr_scheduler_type": "set lr_schedule",
    "warmup_": "set warmup_fraction",
    "num_train_epochs": "set epochs",
    "max_steps": "set epochs",
    "per_device_": "set micro_batch_size",
    "gradient_accumulation_steps": "set global_batch_size and micro_batch_size",
    "auto_find_batch_size": "set micro_batch_size",
    "activation_checkpointing": "set gradient_checkpointing",
    "bf16": "set precision",
    "bf16_": "set precision",
    "fp16": "set precision",
    "fp16_": "set precision",
    "seed": "set the spec's seed",
    "data_seed": "set the spec's seed",
    "full_determinism": "a stage trains the same rows in the same order by itself",
    "fsdp": _WORKERS,
    "fsdp_": _WORKERS,
    "ddp_": _WORKERS,
    "parallelism_config": _WORKERS,
    "accelerator_config": _WORKERS,
    "use_cpu": _WORKERS,
    "local_rank": _WORKERS,
    "save_": "set checkpoint_every_steps",
    "resume_from_checkpoint": "a stage resumes by itself",
    "restore_callback_states_from_checkpoint": "a stage resumes by itself",
    "ignore_data_skip": "a stage resumes by itself",
    "enable_jit_checkpoint": "set checkpoint_every_steps",
    "eval_": "set eval_every_steps",
    "do_": "set eval_every_steps",
    "prediction_loss_only": "set eval_every_steps",
    "batch_eval_metrics": "set eval_every_steps",
    "include_for_metrics": "set eval_every_steps",
    "load_best_model_at_end": "set keep_best",
    "metric_for_best_model": "set keep_best",
    "greater_is_better": "set keep_best",
    "output_dir": _PLACES,
    "run_name": _PLACES,
    "project": _PLACES,
    "logging_": _LOGS,
    "log_": _LOGS,
    "report_to": _LOGS,
    "disable_tqdm": _LOGS,
    "trackio_": _LOGS,
    "hub_": _HUB,
    "push_to_hub": _HUB,
    "dataset_": _ROWS,
    "remove_unused_columns": _ROWS,
    "label_names": _ROWS,
    "length_column_name": _ROWS,
    "completion_only_loss": _ROWS,
    "assistant_only_loss": _ROWS,
    "chat_template_path": _ROWS,
    "eos_token": _ROWS,
    "pad_token": _ROWS,
    "truncation_mode": _ROWS,
    "shuffle_dataset": "rows are drawn by the spec's seed",
    "train_sampling_strategy": "rows are drawn by the spec's seed",
    "dataloader_drop_last": "the last global batch is filled up",
    "model_init_kwargs": "set model",
    "trust_remote_code": "no code of a model is run",
    "padding_free": "set packing, which goes without padding too",
    "precompute_ref_": _REFERENCE,
    "sync_ref_model": _REFERENCE,
    "ref_model_": _REFERENCE,
    "ld_alpha": _REFERENCE,
}
_LEFT_BEHIND = ("ACCELERATE_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_")
_TIMEOUT_S = 300.0


def own_settings(block: Mapping[str, Any], stage_settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(place, what to do) of each setting in the block that the stage says or decides itself."""
    for name in block:
        advice = [_OWN[own] for own in _OWN if name == own or (own.endswith("_") and name.startswith(own))]
        if name in stage_settings:
            yield f"trl.{name}", f"is a setting of the stage itself; set {name} there"
        elif advice:
            yield f"trl.{name}", f"is not taken here; {advice[0]}"


def check_trl_block(block: Mapping[str, Any], arguments_class: str) -> None:
    """Raise `InputError` that names all that TRL's class of arguments does not know or refuses."""
    if not block:
        return
    # Without what a training in this process left behind.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_LEFT_BEHIND)}
    environment = {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "training.post_training.trl_block", arguments_class],
        input=json.dumps(block),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise InputError(f"trl: TRL's {arguments_class} can't be asked: {done.stderr.strip()[-500:]}")
    problems: list[str] = json.loads(done.stdout.strip().splitlines()[-1])
    if problems:
        raise InputError("; ".join(problems))


def problems_of(block: Mapping[str, Any], arguments_class: str) -> list[str]:
    """What TRL's class of that name says of the block; for a process of its own."""
    import trl

    known = {field.name for field in dataclasses.fields(getattr(trl, arguments_class))}
    problems = []
    for name in block:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            problems.append(f"trl.{name} is no setting of TRL's {arguments_class}{hint}")
    block = {name: value for name, value in block.items() if name in known}
    with tempfile.TemporaryDirectory() as directory:
        for names in ([[name] for name in block], [list(block)]):
            for some in names:
                try:
                    getattr(trl, arguments_class)(
                        output_dir=directory, use_cpu=True, bf16=False, report_to=[], **{n: block[n] for n in some}
                    )
                except Exception as error:  # whatever the class stumbles over
                    shown = ", ".join(f"trl.{name}: {block[name]!r}" for name in some)
                    problems.append(f"{shown} is refused by TRL's {arguments_class}: {error}")
            if problems:  # the settings together are asked only where each is taken
                break
    return problems


if __name__ == "__main__":
    print(json.dumps(problems_of(json.load(sys.stdin), sys.argv[1])))
