"""Which model is trained: presets by size, any Hugging Face causal-LM config, or an existing model directory.

The presets are Llama-type: RMSNorm, SwiGLU, RoPE, grouped-query attention; embeddings are tied up to 1b.
Sizes are named for a vocabulary of about 32,000. Importing this costs nothing; transformers is loaded when a
config or a model is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.contracts.errors import InputError


@dataclass(frozen=True)
class Preset:
    """The shape of a Llama-type model."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    max_position_embeddings: int
    rope_theta: float = 10_000.0
    tie_word_embeddings: bool = True

    def settings(self) -> dict[str, Any]:
        """As a Hugging Face config, without vocabulary and special tokens."""
        return {
            "model_type": "llama",
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "tie_word_embeddings": self.tie_word_embeddings,
            "rms_norm_eps": 1e-5,
        }


PRESETS: dict[str, Preset] = {
    "tiny": Preset(192, 4, 3, 1, 512, 1024),  # 2.4M with a vocabulary of 4,096
    "30m": Preset(448, 8, 7, 7, 1024, 2048),
    "125m": Preset(768, 16, 12, 4, 2048, 2048),
    "350m": Preset(1024, 28, 16, 8, 2816, 4096),
    "1b": Preset(2048, 22, 16, 8, 5632, 4096, 500_000.0),
    "3b": Preset(3072, 28, 24, 8, 8192, 8192, 500_000.0, tie_word_embeddings=False),
    "7b": Preset(4096, 32, 32, 8, 14336, 8192, 500_000.0, tie_word_embeddings=False),
}


def model_config(model: str | Mapping[str, Any], *, tokenizer: Any) -> Any:
    """The `PretrainedConfig` of a new model for a Hugging Face `tokenizer`.

    `model` is a preset's name or a config dict with a `model_type`. Vocabulary size and special token ids are
    the tokenizer's. Raises `InputError` for an unknown preset, type or key.
    """
    from huggingface_hub.errors import StrictDataclassError

    if isinstance(model, str):
        if model not in PRESETS:
            raise InputError(f"model {model!r} is no preset; there are {', '.join(PRESETS)}, or give a config dict")
        settings = PRESETS[model].settings()
    else:
        settings = dict(model)
    settings.setdefault("vocab_size", len(tokenizer))
    if settings["vocab_size"] < len(tokenizer):
        raise InputError(
            f"model.vocab_size is {settings['vocab_size']} and the tokenizer has {len(tokenizer)} tokens; "
            "leave vocab_size out to take the tokenizer's"
        )
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config_class = _config_class(settings)
    del settings["model_type"]
    try:
        return config_class(**{**ids, **settings})
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise InputError(f"model is no valid {config_class.model_type!r} config: {error.__cause__ or error}") from error


def _config_class(settings: Mapping[str, Any]) -> Any:
    """The config class of a causal LM type, every key of `settings` checked (transformers itself takes any)."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    model_type = settings.get("model_type")
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise InputError(
            f"model.model_type is {model_type!r}; it must be a causal-LM type of transformers, such as 'llama'"
        )
    default = AutoConfig.for_model(model_type)
    unknown = sorted(set(settings) - set(default.to_dict()) - {"dtype", "attn_implementation"})
    if unknown:
        raise InputError(f"model has keys that a {model_type!r} config does not know: {', '.join(unknown)}")
    return type(default)


def new_model(config: Any) -> Any:
    """A causal LM with fresh weights in fp32, drawn from torch's seed."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def load_model(directory: Path) -> Any:
    """The causal LM in a local model directory, in fp32; nothing is downloaded and no code of it is run."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, local_files_only=True)


def check_sequence_length(sequence_length: int, config: Any) -> None:
    """Raise `InputError` if the model has no positions for such sequences."""
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and sequence_length > longest:
        raise InputError(
            f"sequence_length is {sequence_length} and the model has {longest} positions "
            "(max_position_embeddings); shorten the one or raise the other"
        )
