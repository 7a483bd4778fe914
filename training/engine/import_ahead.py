"""What a worker that waits for its first stage can import meanwhile: libraries that stages import when they need them.

The bulk of it is the same for all models: transformers' classes of models and its generation. Llama stands for them.
"""

from __future__ import annotations

import importlib

from training.engine.deepspeed_engine import load_deepspeed


def import_for_training() -> None:
    """DeepSpeed and transformers' models."""
    load_deepspeed()
    importlib.import_module("transformers.models.llama.modeling_llama")


def import_for_post_training() -> None:
    """The same, and TRL's trainers with what they stand on."""
    import_for_training()
    for module in ("trl.trainer.sft_trainer", "trl.trainer.dpo_trainer", "trl.trainer.reward_trainer"):
        importlib.import_module(module)
