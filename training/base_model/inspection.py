"""What transformers makes of a model directory: tensors that are missing, the tokenizer, modules for adapters.

No weights are read: the heads of the safetensors files stand in for them as tensors without values (torch's `meta`
device), and transformers' own loading renames and merges those as it would the real ones. So this takes seconds and a
few hundred megabytes for a model of any size.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from cluster.contracts import storage
from cluster.contracts.chat.encoder import ChatEncoder
from cluster.contracts.errors import InputError
from cluster.contracts.model_needs import ModelNeeds, other_attention
from training.base_model.directory import Finding, ModelDirectory, shown
from training.base_model.tensor_headers import TensorHeader
from training.models import check_looks_back_only, missing_tensors, new_model

Role = Literal["policy", "reward"]
_COPY_AGAIN = "copy its weights again, or save the whole model by save_pretrained"
# What an unused token is called in the tokenizers of known models; the first fits best for padding.
_PADDING_HINTS = ("pad", "reserved", "unused", "extra", "endoftext", "unk")
_MOST_CANDIDATES = 5
_TRIED_TOKENS = 64  # of a model that is made to see which way it looks


def transformers_findings(
    directory: ModelDirectory, needs: ModelNeeds, role: Role, *, scratch: Path
) -> Iterator[Finding]:
    """What is wrong with a whole model (no adapter) beside its `directory.findings`."""
    if not directory.config:  # without which transformers loads nothing, not even the tokenizer
        return
    with without_weights(directory, scratch) as local:
        yield from _tokenizer_findings(local, directory, needs)
        config, found = load_config(local, role)
        yield from found
        if config is None:
            return
        yield from _position_findings(config, needs)
        yield from answer_findings(config, needs)
        if role == "policy":
            yield from _direction_findings(config)
        model, found = skeleton(config, role, needs)
        yield from found
        if model is None:
            return
        if directory.tensors and not directory.findings:  # what is cut short or quantised lacks tensors anyway
            yield from _tensor_findings(model, directory.tensors, role, needs)
        yield from _embedding_findings(model, local)
        yield from lora_findings(model, needs)


@contextmanager
def without_weights(directory: ModelDirectory, scratch: Path) -> Iterator[Path]:
    """A local directory with the model's files: itself where it is local, else a copy without weights."""
    if storage.is_local(directory.uri):
        yield storage.local_path(directory.uri)
        return
    target = scratch / uuid4().hex
    target.mkdir(parents=True)
    try:
        for name in directory.names:
            if "/" not in name and not name.endswith((".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5")):
                storage.download_file(directory.path(name), target / name)
        yield target
    finally:
        shutil.rmtree(target, ignore_errors=True)


def load_config(local: Path, role: Role) -> tuple[Any, list[Finding]]:
    """The model's config, or None with what keeps it from being one of a causal (or reward) model."""
    from transformers import AutoConfig
    from transformers.models.auto import modeling_auto

    try:
        config = AutoConfig.from_pretrained(local, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a config's own class stumbles over
        if "trust_remote_code" in str(error):
            return None, [
                Finding(
                    "is of a type whose code lies in the directory itself, and such code is never run",
                    "take a model of a type that transformers knows",
                )
            ]
        reason = str(error).strip().split("\n")[0]
        return None, [Finding(f"has a config that transformers does not take ({reason})", "give one that it loads")]
    if getattr(config, "quantization_config", None) is not None:
        del config.quantization_config  # told already; the rest can still be looked at
    known = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if config.model_type not in known:
        return None, [
            Finding(
                f"is of type {config.model_type!r}, which is no causal language model of transformers",
                "take one that predicts the next token (Llama, Mistral, Qwen, Gemma, GPT-2)",
            )
        ]
    classifies = any(str(name).endswith("ForSequenceClassification") for name in config.architectures or ())
    if role == "policy" and classifies:
        return None, [Finding("is a reward model or classifier", "give the causal model that it was made from")]
    if role == "reward" and config.architectures and not classifies:
        return None, [
            Finding(
                f"is no reward model but {', '.join(map(str, config.architectures))}",
                "give the directory of a reward_model stage, or one with a score head of one label",
            )
        ]
    if role == "reward" and config.num_labels != 1:
        return config, [Finding(f"has {config.num_labels} labels", "a reward model has one, its score")]
    return config, []


def skeleton(config: Any, role: Role, needs: ModelNeeds) -> tuple[Any, list[Finding]]:
    """The model as the stage will build it, without values; None where transformers can't build it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    scores = role == "reward" or needs.new_head
    auto_class = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    try:
        with torch.device("meta"):
            return auto_class.from_config(config, trust_remote_code=False), []
    except Exception as error:  # whatever a model's own code stumbles over
        what = "a reward model" if scores else "a causal model"
        reason = str(error).strip().split("\n")[0][:200]
        return None, [
            Finding(
                f"is of type {config.model_type!r}, of whose config transformers makes no {what[2:]} ({reason})",
                "take a model of another type" if scores else "mend its config.json",
            )
        ]


def meta_tensors(headers: Mapping[str, TensorHeader]) -> dict[str, Any]:
    """Tensors without values in place of those in the files."""
    import torch

    floats = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
    return {
        name: torch.empty(header.shape, dtype=floats.get(header.dtype, torch.float32), device="meta")
        for name, header in headers.items()
    }


def _tensor_findings(
    model: Any, headers: Mapping[str, TensorHeader], role: Role, needs: ModelNeeds
) -> Iterator[Finding]:
    import torch
    from transformers.utils import logging

    level, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # its table of missing tensors is told in our words
    logging.disable_progress_bar()
    try:
        loaded, found = type(model).from_pretrained(
            None,
            config=model.config,
            state_dict=meta_tensors(headers),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
            device_map={"": "meta"},
        )
    except Exception as error:  # whatever a model's own renaming of tensors stumbles over
        reason = str(error).strip().split("\n")[0][:200]
        yield Finding(f"has weights that transformers does not load ({type(error).__name__}: {reason})", _COPY_AGAIN)
        return
    finally:
        logging.set_verbosity(level)
        if shows_bars:
            logging.enable_progress_bar()
    missing = missing_tensors(loaded, found["missing_keys"], new_head=needs.new_head)
    if missing:
        yield Finding(f"lacks {len(missing)} tensors that its config asks for: {shown(missing)}", _COPY_AGAIN)
    wrong = {
        f"{name} is {list(there)} and should be {list(wanted)}" for name, there, wanted in found["mismatched_keys"]
    }
    if wrong:
        yield Finding(f"has tensors of other shapes than its config says: {shown(wrong)}", _COPY_AGAIN)


def _direction_findings(config: Any) -> Iterator[Finding]:
    """Of configs that leave open whether the model is a decoder (BERT's, GPT-NeoX'): tried on one small layer."""
    if getattr(config, "is_decoder", None) is not False:
        return
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0)
    small = type(config).from_dict({**config.to_dict(), "vocab_size": _TRIED_TOKENS, "num_hidden_layers": 1, **tokens})
    try:
        check_looks_back_only(new_model(small))
    except InputError as error:
        if "looks ahead" in str(error):
            yield Finding(
                "is an encoder, whose predictions depend on the tokens that are to be predicted",
                "take a causal model (Llama, Mistral, Qwen, Gemma, GPT-2)",
            )


def _position_findings(config: Any, needs: ModelNeeds) -> Iterator[Finding]:
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if needs.max_length is not None and positions is not None and 0 < positions < needs.max_length:
        yield Finding(
            f"has {positions} positions (max_position_embeddings), and {needs.length_setting} is {needs.max_length}",
            f"lower {needs.length_setting} to {positions} at most",
        )


def answer_findings(config: Any, needs: ModelNeeds) -> Iterator[Finding]:
    """Why the serving engine does not run a model of this config, if it has to."""
    if needs.answers and (other := other_attention(config)):
        yield Finding(
            f"can't answer here: {config.model_type} has layers with {other}, and the serving engine runs models with "
            "full attention in every layer",
            "sft, dpo, kto and reward_model train it; ask it by other software, or take another base",
        )


# ----------------------------------------------------------------------------------------------------- tokenizer


def _tokenizer(local: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(local, local_files_only=True, trust_remote_code=False)


def _tokenizer_findings(local: Path, directory: ModelDirectory, needs: ModelNeeds) -> Iterator[Finding]:
    if any(finding.what.startswith("holds no tokenizer") for finding in directory.findings):
        return
    try:
        tokenizer = _tokenizer(local)
    except Exception as error:  # whatever a tokenizer's own class stumbles over
        reason = str(error).strip().split("\n")[0][:200]
        yield Finding(
            f"has a tokenizer that transformers does not load ({type(error).__name__}: {reason})",
            "save the model's fast tokenizer (tokenizer.json) into it",
        )
        return
    if not tokenizer.is_fast:
        yield Finding("has no fast tokenizer (tokenizer.json)", "convert it: AutoTokenizer(...).save_pretrained")
        return
    if needs.chat_template:
        yield from _template_findings(tokenizer, needs)
    if needs.pad_token is not None and needs.pad_token not in tokenizer.get_vocab():
        yield Finding(f"has no token {needs.pad_token!r} (pad_token)", "name one of its tokenizer's tokens")
    elif needs.padding_token and needs.pad_token is None and tokenizer.pad_token_id is None:
        candidates = padding_candidates(tokenizer)
        yield Finding(
            "has no padding token",
            f"choose one that means nothing else by pad_token: {', '.join(candidates)}"
            if candidates
            else "add a token to the tokenizer and to the embeddings, and set it as its pad_token",
        )


def _template_findings(tokenizer: Any, needs: ModelNeeds) -> Iterator[Finding]:
    """Whether there is a template, it takes a question and an answer, and it ends the answer."""
    given = needs.chat_template_file
    if given is None and not tokenizer.chat_template:
        yield Finding("has no chat template", "give one by chat_template, or set tokenizer.chat_template and save it")
        return
    try:
        template = storage.read_bytes(given).decode() if given is not None else None
        _ = ChatEncoder(tokenizer, chat_template=template, stop_token=needs.stop_token).stop_tokens
    except (InputError, OSError, UnicodeDecodeError) as error:
        yield Finding(f"can't chat: {error}", "give another template by chat_template, or the token by stop_token")


def padding_candidates(tokenizer: Any) -> list[str]:
    """Special tokens that could pad: not the ones that begin or end a text; those that look unused first."""
    taken = {tokenizer.bos_token, tokenizer.eos_token}
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    free = [token for token in special if token not in taken]

    def fitness(token: str) -> int:
        return next((n for n, hint in enumerate(_PADDING_HINTS) if hint in token.lower()), len(_PADDING_HINTS))

    return sorted(free, key=fitness)[:_MOST_CANDIDATES]


def _embedding_findings(model: Any, local: Path) -> Iterator[Finding]:
    """Ids that the embeddings have no row for would end in an index error in a worker."""
    try:
        largest = max(_tokenizer(local).get_vocab().values())
    except Exception:  # what is wrong with the tokenizer is told already
        return
    rows = model.get_input_embeddings().weight.shape[0]
    if largest >= rows:
        yield Finding(
            f"has {rows} embeddings, and its tokenizer has ids up to {largest}",
            "give the tokenizer that belongs to it, or make room: model.resize_token_embeddings(len(tokenizer))",
        )


# ---------------------------------------------------------------------------------------------------------- LoRA


def lora_findings(model: Any, needs: ModelNeeds) -> Iterator[Finding]:
    """Findings where the model has no module of a name that gets adapters, or where that is the output layer.

    PEFT takes whole names, or ends behind a dot. TRL's losses read the output layer's weights past an adapter.
    """
    modules = dict(model.named_modules())

    def named(target: str) -> list[Any]:
        return [module for name, module in modules.items() if name == target or name.endswith(f".{target}")]

    head = model.get_output_embeddings()
    for target in needs.lora_targets:
        if not needs.new_head and head is not None and any(module is head for module in named(target)):
            yield Finding(
                f"has {target} as its output layer, whose adapter the losses pass by (lora.target_modules)",
                f"put {target} into lora.modules_to_save, which trains it whole",
            )
    unknown = [target for target in (*needs.lora_targets, *needs.lora_whole) if not named(target)]
    if unknown:
        linear = {
            name.rpartition(".")[2]
            for name, module in modules.items()
            if module is not head and type(module).__name__ in ("Linear", "Conv1D")
        }
        yield Finding(
            f"has no modules called {', '.join(unknown)} (lora.target_modules, lora.modules_to_save)",
            f"there are {', '.join(sorted(linear))}; all-linear takes them all",
        )
