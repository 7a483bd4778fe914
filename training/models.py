"""Which model is trained: a preset by size, any Hugging Face causal-LM config, or an existing model directory.

The presets are of Llama's type: RMSNorm, SwiGLU, RoPE and grouped-query attention, with tied embeddings up to `1b`.
Their sizes are named for a vocabulary of about 32,000. Importing this costs nothing, since transformers is loaded when
a config or a model is built.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from cluster.contracts.config import StrictModel
from cluster.contracts.errors import InputError
from cluster.contracts.reward_scale import read_reward_scale


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


# Difference of rounding, as a share of the logits' standard deviation, and far below any of context.
_SAME_LOGITS = 1e-3
# Of rounding too, as a share of the gradient by the tokens before; a mask leaves exactly nothing.
_SAME_GRADIENT = 1e-6


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


def load_model(
    directory: Path, *, config: Any = None, attention_kernel: str | None = None, fills_output_layer: bool = False
) -> Any:
    """The causal LM in a local model directory, in fp32; nothing is downloaded and no code of it is run.

    `config` replaces the directory's own (a longer context, say). Raises `InputError` where a tensor is missing (other
    than tied ones, which are stored once) or of another shape; transformers would draw it at random. The output layer
    may be missing where the caller `fills_output_layer`.
    """
    from transformers import AutoModelForCausalLM

    return _loaded(
        AutoModelForCausalLM,
        directory,
        fills_output_layer=fills_output_layer,
        config=config,
        attn_implementation=attention_kernel,
    )


def compile_layers(model: Any, *, backend: str | Callable[..., Any] = "inductor") -> None:
    """Have `torch.compile` make one graph of a model's layers at their first pass; without layers, of the model.

    Layers alike share their graph, so it takes as long as one of them. Attention's mask is made outside: in a graph
    transformers can't look whether documents are packed, so it would always build a dense mask, and SDPA then takes a
    kernel several times slower than the one for plain causal attention.
    """
    for module in layers_of(model) or [model]:
        module.compile(backend=backend)


def layers_of(model: Any) -> list[Any]:
    """The layers that a model is a stack of, as transformers names them; empty where it doesn't."""
    from torch.nn import ModuleList

    names = set(getattr(model, "_no_split_modules", None) or ())  # of embeddings and the like too
    stacks = (module for module in model.modules() if isinstance(module, ModuleList))
    return [layer for stack in stacks for layer in stack if type(layer).__name__ in names]


def check_looks_back_only(model: Any) -> None:
    """Raise `InputError` if a model sees the tokens it is to predict.

    Transformers makes a causal-LM model of an encoder's config too (BERT, RoBERTa), which then attends both ways unless
    `is_decoder` is set, and its loss means nothing. Nothing all configs have tells which, so it is tried: no token's
    logits may have a gradient by the embeddings of the tokens behind it. A model whose logits depend on nothing yet, by
    a head of zeros, passes.
    """
    import torch

    length = min(12, longest_sequence(model.config))
    kept = length // 2
    if not kept:
        return
    ids = torch.arange(length, device=model.device) % min(16, model.config.vocab_size)
    embedded: list[torch.Tensor] = []

    def embeddings(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())  # frozen ones too
        return embedded[-1]

    with _tried(model), torch.enable_grad():
        hook = model.get_input_embeddings().register_forward_hook(embeddings)
        try:
            logits_TV = model(input_ids=ids[None], use_cache=False).logits[0, :kept].float()
        finally:
            hook.remove()
        weights_TV = torch.linspace(-1.0, 1.0, logits_TV.numel(), device=model.device).view_as(logits_TV)
        (gradient,) = torch.autograd.grad((logits_TV * weights_TV).sum(), embedded[:1])
    gradient_TD = gradient.float().flatten(0, -2)  # some models have the tokens first, or more of their own in front
    before, behind = (float(part.abs().max()) for part in gradient_TD.tensor_split([kept - length]))
    if not math.isfinite(before + behind):
        raise InputError(f"a {model.config.model_type!r} model with these weights gives logits that are no numbers")
    if behind > _SAME_GRADIENT * before:
        raise InputError(
            f"a {model.config.model_type!r} model of this config looks ahead: a token's logits depend on the tokens "
            "behind it, which it is to predict; set is_decoder: true in the config of an encoder that has it (BERT, "
            "RoBERTa), or take a causal model (Llama, Mistral, Qwen, GPT-2, GPT-NeoX)"
        )


@contextmanager
def _tried(model: Any) -> Iterator[None]:
    """For a pass by which something is found out: without dropout, and with a kernel that takes fp32.

    Raises `InputError` where the pass fails.
    """
    training, kernel = model.training, str(model.config._attn_implementation)
    model.eval()
    if "flash" in kernel:  # takes no fp32, which the weights are in here
        model.set_attn_implementation("eager")
    try:
        yield
    except Exception as error:  # whatever a model's own code stumbles over
        raise InputError(
            f"a {model.config.model_type!r} model of this config can't be tried on a few tokens: "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        if "flash" in kernel:
            model.set_attn_implementation(kernel)
        model.train(training)


def longest_sequence(config: Any) -> int:
    """The most positions of a sequence; configs without a limit have none, or -1."""
    longest = getattr(config, "max_position_embeddings", None)
    return longest if longest is not None and longest > 0 else sys.maxsize


def check_attention_within_documents(model: Any) -> None:
    """Raise `InputError` if a model sees past the beginning of a document that its positions mark.

    Models take positions that start over for documents of their own, or ignore them (OPT, Bloom, Mamba, ALiBi's), and
    nothing in a config tells which. So it is tried: a document behind another one must have the logits it has alone.
    """
    import torch

    total = min(12, longest_sequence(model.config))
    before = 5 * total // 12
    if not before:
        return
    ids = torch.arange(total, device=model.device) % min(16, model.config.vocab_size)
    positions = torch.cat([torch.arange(before), torch.arange(total - before)]).to(model.device)
    with _tried(model), torch.no_grad():
        alone = model(input_ids=ids[None, before:], use_cache=False).logits[0]
        try:
            packed = model(input_ids=ids[None], position_ids=positions[None], use_cache=False).logits[0, before:]
        except TypeError:  # takes no positions
            packed = model(input_ids=ids[None], use_cache=False).logits[0, before:]
    difference = float((packed - alone).float().abs().max() / alone.float().std().clamp(min=1e-6))
    if not difference < _SAME_LOGITS:
        raise InputError(
            f"attention: within_documents does not hold for a {model.config.model_type!r} model: a document's logits "
            f"change by {difference:.1%} with what is packed before it; take across_documents, or a model that masks "
            "by position ids (Llama, Mistral, Qwen, GPT-2, GPT-NeoX)"
        )


def load_config(directory: Path) -> Any:
    """The config of the model in a local directory."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


class ContextExtension(StrictModel):
    """Longer sequences for a model with rotary positions (RoPE) than it was trained on.

    `yarn` (Peng et al. 2023) scales slow frequencies only and needs the fewest tokens to adapt; `linear` is position
    interpolation (Chen et al. 2023); `theta` raises RoPE's base alone (Xiong et al. 2023), with `rope_theta`.
    """

    method: Literal["yarn", "linear", "theta"] = "yarn"
    """How positions are stretched. `yarn` (Peng et al. 2023) scales slow frequencies only and needs the fewest tokens
    to adapt; `linear` is position interpolation (Chen et al. 2023); `theta` raises RoPE's base alone (Xiong et al.
    2023) and needs `rope_theta`.
    """

    max_position_embeddings: Annotated[int, Field(ge=2)]
    """The new longest sequence, in tokens."""

    rope_theta: Annotated[float | None, Field(gt=0)] = None
    """The new base of the rotary positions. `null` keeps the model's own, which method `theta` does not allow."""

    @model_validator(mode="after")
    def _theta_has_a_new_base(self) -> Self:
        if self.method == "theta" and self.rope_theta is None:
            raise ValueError("method theta extends by a higher base alone: give it as rope_theta, or take yarn")
        return self


def extend_context(config: Any, extension: ContextExtension) -> Any:
    """A model's config with positions up to `extension.max_position_embeddings`.

    All else of its positions stays as it is, such as the part of each head that is rotated. Raises `InputError` for a
    model whose config has no one set of RoPE's parameters, whose context is as long already, or that the method is not
    for.
    """
    from huggingface_hub.errors import StrictDataclassError

    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        raise InputError(
            f"context_extension: a {config.model_type!r} model has no rotary positions (RoPE) for its config to scale"
        )
    if "rope_theta" not in parameters:
        raise InputError(
            f"context_extension: a {config.model_type!r} model has rotary positions (RoPE) of its own for each type of "
            f"layer ({', '.join(parameters)}), and these can't be scaled as one; write what you want of each into "
            "rope_parameters, and max_position_embeddings, in the initial model's config.json"
        )
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
    theta = parameters["rope_theta"]
    if extension.method == "theta" and extension.rope_theta is not None and extension.rope_theta <= theta:
        raise InputError(
            f"context_extension.rope_theta is {extension.rope_theta:g}, and the model's is {theta:g} already; only a "
            "higher one makes room for longer sequences"
        )
    scaled = {**parameters, "rope_theta": extension.rope_theta or theta}
    if extension.method != "theta":
        scaled.update(rope_type=extension.method, factor=extension.max_position_embeddings / original)
    if extension.method == "yarn":
        scaled["original_max_position_embeddings"] = original
    settings = config.to_dict() | {
        "rope_parameters": scaled,
        "max_position_embeddings": extension.max_position_embeddings,
    }
    try:
        return type(config).from_dict(settings)
    except (KeyError, StrictDataclassError, TypeError, ValueError) as error:  # Phi-3, say, has a scaling of its own
        raise InputError(
            f"context_extension: a {config.model_type!r} model does not take {extension.method!r} scaling "
            f"({error.__cause__ or error}); take method theta"
        ) from error


def add_tokens(model: Any, *, old_tokens: int, num_tokens: int) -> None:
    """Give each of the tokens from `old_tokens` up to `num_tokens` the mean of the old ones' embeddings.

    `old_tokens` is the size of the tokenizer that the model was trained with. Its tables may have more rows, which were
    never trained; they grow where they have fewer than `num_tokens`. The mean leaves what the model predicts for old
    tokens nearly as it was (Hewitt 2021); random rows do not.
    """
    import torch

    num_rows = model.get_input_embeddings().weight.shape[0]
    old = min(old_tokens, num_rows)
    if num_tokens <= old:
        return
    if num_tokens > num_rows:
        model.resize_token_embeddings(num_tokens, mean_resizing=False)
    head = model.get_output_embeddings()
    tables = [model.get_input_embeddings().weight]
    if head is not None:
        tables += [table for table in (head.weight, getattr(head, "bias", None)) if table is not None]
    with torch.no_grad():
        for table in tables:  # tied ones twice, to the same values
            table[old:num_tokens] = table[:old].mean(dim=0)


def check_same_tokens(model_tokenizer: Any, tokenizer: Any) -> None:
    """Raise `InputError` unless `tokenizer` has all tokens of the model's own under the same ids, and perhaps more."""
    own, given = model_tokenizer.get_vocab(), tokenizer.get_vocab()
    moved = [token for token, index in own.items() if given.get(token) != index]
    if moved:
        raise InputError(
            f"the tokenizer is not the initial model's: {len(moved):,} of its {len(own):,} tokens have other ids "
            f"or none (such as {sorted(moved)[0]!r}); use the model's tokenizer, or one made from it by adding tokens"
        )


def check_buildable(config: Any, *, attention_kernel: str | None = None) -> None:
    """Raise `InputError` unless transformers makes a model of this config; its weights take no memory."""
    import torch

    heads, kv_heads = (getattr(config, name, None) for name in ("num_attention_heads", "num_key_value_heads"))
    if heads and kv_heads and heads % kv_heads:
        raise InputError(
            f"model.num_key_value_heads is {kv_heads} and does not divide the {heads} attention heads "
            "(num_attention_heads) that share them"
        )
    layers = getattr(config, "num_hidden_layers", None)
    if layers is not None and layers < 1:
        raise InputError(f"model.num_hidden_layers is {layers}; a model has one layer at least")
    try:
        with torch.device("meta"):
            new_model(config, attention_kernel=attention_kernel)
    except Exception as error:  # whatever a model's own code stumbles over
        raise InputError(
            f"transformers can't make a {config.model_type!r} model of this config"
            + (f" with attention_kernel {attention_kernel!r}" if attention_kernel else "")
            + f": {type(error).__name__}: {error}"
        ) from error


def check_sequence_length(sequence_length: int, config: Any) -> None:
    """Raise `InputError` if the model has no positions for such sequences."""
    longest = longest_sequence(config)
    if sequence_length > longest:
        raise InputError(
            f"sequence_length is {sequence_length} and the model has {longest} positions "
            "(max_position_embeddings); shorten the one or raise the other "
            "(an initial model's by `context_extension`)"
        )


def load_reward_model(directory: Path) -> Any:
    """The trained reward model in a local directory, in fp32, with its `reward_scale`.

    Raises `InputError` as `load_model` does.
    """
    from transformers import AutoModelForSequenceClassification

    model = _loaded(AutoModelForSequenceClassification, directory)
    model.reward_scale = read_reward_scale(directory)
    return model


def load_under_new_head(directory: Path, **settings: Any) -> Any:
    """The body of the causal model in a local directory under a fresh score head, drawn from torch's seed; in fp32.

    `settings` enter the config (`num_labels`, `pad_token_id`). Raises `InputError` where a tensor of the body is
    missing or of another shape.
    """
    from transformers import AutoModelForSequenceClassification

    return _loaded(AutoModelForSequenceClassification, directory, new_head=True, **settings)


def missing_tensors(model: Any, missing: Iterable[str], *, new_head: bool = False) -> list[str]:
    """Those of the names that `from_pretrained` gives as missing that a model can't do without.

    Tied tensors are not among them, as transformers leaves those out. With `new_head`, what stands beside the body is
    made anew.
    """
    body = f"{model.base_model_prefix}."
    return sorted(name for name in missing if not new_head or name.startswith(body))


def _loaded(
    auto_class: Any, directory: Path, *, new_head: bool = False, fills_output_layer: bool = False, **settings: Any
) -> Any:
    """`auto_class.from_pretrained` without its leniency: no pickles, no foreign code, nothing left at random."""
    import torch
    from safetensors import SafetensorError

    try:
        model, found = auto_class.from_pretrained(
            directory,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **settings,
        )
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:
        raise InputError(f"transformers can't load the model in {directory}: {error}") from error
    missing = missing_tensors(model, found["missing_keys"], new_head=new_head)
    if fills_output_layer:
        head = model.get_output_embeddings()
        filled = next(name for name, module in model.named_modules() if module is head)
        missing = [name for name in missing if name != f"{filled}.weight"]
    if missing:
        raise InputError(
            f"the model in {directory} lacks {len(missing)} tensors, which would be drawn at random: "
            f"{', '.join(missing[:5])}; copy its weights again"
        )
    return model
