"""Checks a spec's `deepspeed:` block before a worker starts.

A block is merged into the settings that a stage makes for DeepSpeed. It is refused where it contradicts the stage's own
settings, where it asks for something that our training loops don't honour, or where DeepSpeed's own parser refuses it.
"""

from __future__ import annotations

import difflib
import inspect
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import ValidationError

from cluster.contracts.errors import InputError
from training.engine.deepspeed_config import deepspeed_config
from training.engine.deepspeed_engine import load_deepspeed

_ADAMW_SWITCHES = frozenset({"amsgrad", "capturable", "differentiable", "foreach", "fused", "maximize"})
_NOT_OURS = {
    "scheduler": "the stage sets the learning rate of each step itself (schedule, warmup_steps, min_lr)",
    "amp": "precision says what is computed in",
    "managed_gradient_accumulation": "the stage says itself which pass is the last of a step",
    "torch_autocast": "precision says what is computed in",
    "tensor_parallel": "a stage divides its model by ZeRO alone (zero_stage)",
    "pipeline": "a stage divides its model by ZeRO alone (zero_stage)",
    "hybrid_engine": "a stage generates nothing with its engine",
    "data_efficiency": "the stage chooses its data itself",
    "curriculum_learning": "the stage chooses its data itself",
}


def check_passthrough(extra: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise `InputError` that names all that our loops can't honour, or DeepSpeed refuses, of a `deepspeed:` block.

    `config` is what `deepspeed_config` made with that block. DeepSpeed itself would find these on the workers, or leave
    them out without a word.
    """
    if (key := _other_than_text(extra)) is not None:
        raise InputError(f"deepspeed: {key!r} is no name of a setting; put it in quotes, or take it out")
    problems = [f"deepspeed.{key} is {extra[key]!r}, and {why}" for key, why in _NOT_OURS.items() if key in extra]
    zero, adamw = config["zero_optimization"], config["optimizer"]["params"]
    if zero.get("compute_grad_norm") is False:
        problems.append("deepspeed.zero_optimization.compute_grad_norm is false, and every step's norm is judged")
    problems += [
        f"deepspeed.optimizer.params.{key} is {adamw[key]!r}, and the optimizer is torch's AdamW"
        for key in ("adam_w_mode", "torch_adam")
        if adamw.get(key, True) is not True
    ]
    problems += [
        f"deepspeed.optimizer.params.{key} is {value!r}; it must be true or false"
        for key, value in adamw.items()
        if key in _ADAMW_SWITCHES and not isinstance(value, bool | None)
    ]
    if adamw.get("foreach") and adamw.get("fused"):
        problems.append("deepspeed.optimizer.params.foreach is true, and so is fused: set fused to false beside it")
    takes = {*inspect.signature(torch.optim.AdamW).parameters, "torch_adam", "adam_w_mode"} - {"params"}
    problems += [
        f"deepspeed.optimizer.params.{key} is no setting of AdamW; it takes {', '.join(sorted(takes))}"
        for key in sorted(adamw.keys() - takes)
    ]
    saving = config.get("checkpoint")
    if isinstance(saving, Mapping) and saving.get("load_universal"):
        problems.append("deepspeed.checkpoint.load_universal is set, and a run loads its own checkpoints as they are")
    if extra:
        load_deepspeed()
        known = _known_settings()
        for key in extra.keys() - known - _NOT_OURS.keys():
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it knows {', '.join(sorted(known))}"
            problems.append(f"deepspeed.{key} is no setting of DeepSpeed's, which would leave it out; {hint}")
        problems += _refused_by_deepspeed(extra, config)
    if problems:
        raise InputError("; ".join(problems))


def _other_than_text(settings: Mapping[Any, Any]) -> Any:
    """A key at any depth that is no text; None where all are."""
    for key, value in settings.items():
        if not isinstance(key, str):
            return key
        if isinstance(value, Mapping) and (found := _other_than_text(value)) is not None:
            return found
    return None


def _refused_by_deepspeed(extra: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """What DeepSpeed says of settings below the top that it can't read, as it reads them all."""
    from deepspeed.runtime.config import DeepSpeedConfig

    try:
        object.__new__(DeepSpeedConfig)._initialize_params({k: v for k, v in config.items() if k not in _NOT_OURS})
    except ValidationError as error:
        return [
            f"deepspeed.{_place(wrong['loc'], extra)} is {wrong['input']!r}: {wrong['msg']}" for wrong in error.errors()
        ]
    except Exception as error:  # it asserts, and stumbles over values of other types
        return [f"deepspeed: a value that DeepSpeed can't read ({type(error).__name__}: {error})"]
    return []


def _place(location: Sequence[Any], extra: Mapping[str, Any]) -> str:
    """Where a setting stands, which DeepSpeed tells from its block on."""
    blocks = (name for name, block in extra.items() if isinstance(block, Mapping) and location[0] in block)
    return ".".join(map(str, [*itertools.islice(blocks, 1), *location]))


def _known_settings() -> set[str]:
    """The names at the top of a config that DeepSpeed asks for: it has no list of them, so its reading is watched."""
    from deepspeed.runtime.config import DeepSpeedConfig

    asked: set[str] = set()

    class Watched(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            asked.add(key)
            return super().get(key, default)

        def __contains__(self, key: object) -> bool:
            asked.add(str(key))
            return super().__contains__(key)

        def __getitem__(self, key: str) -> Any:
            asked.add(key)
            return super().__getitem__(key)

        def keys(self) -> Any:  # which it looks a name up in
            return self

    plain = deepspeed_config(
        zero_stage=0,
        precision="bf16",
        micro_batch_size=1,
        grad_accumulation_steps=1,
        world_size=1,
        gradient_clipping=None,
        lr=1.0,
    )
    object.__new__(DeepSpeedConfig)._initialize_params(Watched(plain))
    return asked
