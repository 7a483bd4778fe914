"""What a stage needs of a model that it is given: stages say it by `StageConfig.model_needs`, the check asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelNeeds:
    """What a model must have, beside weights that are all there."""

    chat_template: bool = False
    """Whether conversations are rendered with a template, which must end answers with a control token."""
    padding_token: bool = False
    """Whether rows are padded with a padding token."""
    max_length: int | None = None
    """The longest row in tokens, for which the model must have positions. None: no row of a known length."""
    length_setting: str = "max_length"
    """The setting that says how long rows are."""
    lora_targets: tuple[str, ...] = ()
    """Names of modules that get adapters; the model must have a module of each name."""
    lora_whole: tuple[str, ...] = ()
    """Names of modules that are trained whole beside adapters; the model must have a module of each name."""
    new_head: bool = False
    """Whether the stage puts a head of its own in place of the model's, which may then lack one."""
    chat_template_file: str | None = None
    """A file with a template that is taken instead of the model's own."""
    stop_token: str | None = None
    """The token that ends answers, where the template is not asked for it."""
    pad_token: str | None = None
    """The token that rows are padded with, where it is not the tokenizer's own."""
    answers: bool = False
    """Whether the serving engine runs the model, which takes full attention in every layer (`other_attention`)."""


def other_attention(config: Any) -> str:
    """What layers of a transformers config attend to instead of all tokens before them; empty where all do that."""
    text = config.get_text_config()
    layer_types = set(getattr(text, "layer_types", None) or ())
    # A window in use marks its layers in `layer_types`; a bare `sliding_window` with them all full is off.
    windowed = getattr(text, "sliding_window", None) is not None and not layer_types
    return ", ".join(sorted(layer_types - {"full_attention"})) or ("a sliding window" if windowed else "")
