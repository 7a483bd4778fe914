"""Which model is trained: presets by size, any Hugging Face causal-LM config, or an existing model directory.

The presets are Llama-type: RMSNorm, SwiGLU, RoPE, grouped-query attention; embeddings are tied up to 1b.
Sizes are named for a vocabulary of about 32,000. Importing this costs nothing; transformers is loaded when a
config or a model is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from cluster.contracts.config import StrictModel
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


def new_model(config: Any, *, attention_kernel: str | None = None) -> Any:
    """A causal LM with fresh weights in fp32, drawn from torch's seed; `attention_kernel` by transformers' name."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention_kernel)


def load_model(directory: Path, *, config: Any = None, attention_kernel: str | None = None) -> Any:
    """The causal LM in a local model directory, in fp32; nothing is downloaded and no code of it is run.

    `config` replaces the directory's own (a longer context, say).
    """
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        directory, config=config, dtype=torch.float32, local_files_only=True, attn_implementation=attention_kernel
    )


def load_config(directory: Path) -> Any:
    """The config of the model in a local directory."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(directory, local_files_only=True)


class ContextExtension(StrictModel):
    """Longer sequences for a model with rotary positions (RoPE) than it was trained on.

    `yarn` (Peng et al. 2023) scales slow frequencies only and needs the fewest tokens to adapt; `linear` is position
    interpolation (Chen et al. 2023); `theta` raises RoPE's base alone (Xiong et al. 2023), with `rope_theta`.
    """

    method: Literal["yarn", "linear", "theta"] = "yarn"
    max_position_embeddings: Annotated[int, Field(ge=2)]  # the new longest sequence, in tokens
    rope_theta: Annotated[float | None, Field(gt=0)] = None  # the new base; None: the model's own


def extend_context(config: Any, extension: ContextExtension) -> Any:
    """A model's config with positions up to `extension.max_position_embeddings`.

    Raises `InputError` for a model without RoPE, or one whose context is as long already.
    """
    parameters = getattr(config, "rope_parameters", None)
    if not parameters or "rope_theta" not in parameters:
        raise InputError(f"context_extension: a {config.model_type!r} model has no rotary positions (RoPE) to scale")
    original = config.max_position_embeddings
    if extension.max_position_embeddings <= original:
        raise InputError(
            f"context_extension.max_position_embeddings is {extension.max_position_embeddings}, and the model has "
            f"{original} positions already; leave context_extension out, or ask for more"
        )
    if parameters.get("rope_type", "default") != "default":
        raise InputError(
            f"context_extension: the model's positions are scaled already ({parameters['rope_type']}); extend the "
            "model that this one was made from, or set its rope_parameters in a model config"
        )
    scaled = {"rope_type": "default", "rope_theta": extension.rope_theta or parameters["rope_theta"]}
    if extension.method != "theta":
        scaled.update(rope_type=extension.method, factor=extension.max_position_embeddings / original)
    if extension.method == "yarn":
        scaled["original_max_position_embeddings"] = original
    settings = config.to_dict() | {
        "rope_parameters": scaled,
        "max_position_embeddings": extension.max_position_embeddings,
    }
    return type(config).from_dict(settings)


def add_tokens(model: Any, num_tokens: int) -> None:
    """Give `model` embeddings for `num_tokens` tokens, if it has fewer: each new one is the mean of the old ones.

    The mean leaves what the model predicts for old tokens nearly as it was (Hewitt 2021); random rows do not.
    """
    import torch

    old = model.get_input_embeddings().weight.shape[0]
    if num_tokens <= old:
        return
    model.resize_token_embeddings(num_tokens, mean_resizing=False)
    tables = {id(table.weight): table.weight for table in (model.get_input_embeddings(), model.get_output_embeddings())}
    with torch.no_grad():
        for weight in tables.values():
            weight[old:] = weight[:old].mean(dim=0)


def check_same_tokens(model_tokenizer: Any, tokenizer: Any) -> None:
    """Raise `InputError` unless `tokenizer` has all tokens of the model's own under the same ids, and perhaps more."""
    own, given = model_tokenizer.get_vocab(), tokenizer.get_vocab()
    moved = [token for token, index in own.items() if given.get(token) != index]
    if moved:
        raise InputError(
            f"the tokenizer is not the initial model's: {len(moved):,} of its {len(own):,} tokens have other ids "
            f"or none (such as {sorted(moved)[0]!r}); use the model's tokenizer, or one made from it by adding tokens"
        )


def check_sequence_length(sequence_length: int, config: Any) -> None:
    """Raise `InputError` if the model has no positions for such sequences."""
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and sequence_length > longest:
        raise InputError(
            f"sequence_length is {sequence_length} and the model has {longest} positions "
            "(max_position_embeddings); shorten the one or raise the other "
            "(an initial model's by `context_extension`)"
        )
