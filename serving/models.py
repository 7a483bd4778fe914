"""Loads a model directory for serving. Imports no Ray.

Only safetensors weights and code that ships with transformers are taken: nothing in a model directory is ever run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from cluster.contracts import storage
from cluster.contracts.chat.encoder import ChatEncoder
from cluster.contracts.errors import InputError
from cluster.contracts.reward_scale import read_reward_scale
from serving.config import ServerConfig


def check_model_directory(uri: str) -> None:
    """Raises `InputError` where there is no model at `uri`."""
    if not storage.exists(storage.join(uri, "config.json")):
        raise InputError(f"{uri} is no model directory: it has no config.json")


@contextmanager
def local_model(uri: str) -> Iterator[Path]:
    """A local directory with the model at `uri`. Raises `InputError` where there is none."""
    check_model_directory(uri)
    with (
        tempfile.TemporaryDirectory(prefix="raymill-model-") as scratch,
        storage.local_copy(uri, Path(scratch)) as path,
    ):
        yield path


def import_ahead() -> None:
    """Import what loading a model takes, of which the bulk is the same for all of them; Llama stands for these."""
    import transformers.models.llama.modeling_llama  # noqa: F401


def load_causal_lm(uri: str, config: ServerConfig) -> Any:
    """The policy's model, on the device the config reserves."""
    from transformers import AutoModelForCausalLM

    return _load(AutoModelForCausalLM, uri, config)


def load_reward_model(uri: str, config: ServerConfig) -> Any:
    """A sequence classifier with one output, and its `reward_scale`. Raises `InputError` for another kind of model."""
    from transformers import AutoModelForSequenceClassification

    model = _load(AutoModelForSequenceClassification, uri, config)
    if model.config.num_labels != 1 or not hasattr(model, "score"):
        raise InputError(
            f"{uri} is no reward model: a decoder with one score per token is needed, "
            f"this is {type(model).__name__} with {model.config.num_labels} labels"
        )
    with local_model(uri) as path:
        model.reward_scale = read_reward_scale(path)
    return model


def load_tokenizer(uri: str) -> Any:
    """The tokenizer beside the model."""
    from transformers import AutoTokenizer

    with local_model(uri) as path:
        try:
            return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{uri} holds no tokenizer that can be loaded: {error}") from error


def stop_token_ids(uri: str) -> tuple[int, ...]:
    """The ids that end an answer: those of the configs and, where a tokenizer lies beside the model, its own.

    A tokenizer's own are its end of text and the tokens with which its chat template ends answers.
    """
    from transformers import AutoConfig, GenerationConfig

    found: set[int] = set()
    with local_model(uri) as path:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        declared = [config.get_text_config().eos_token_id]
        if (path / "generation_config.json").exists():
            declared.append(GenerationConfig.from_pretrained(path, local_files_only=True).eos_token_id)
        if (path / "tokenizer_config.json").exists():
            tokenizer = load_tokenizer(str(path))
            declared.append(tokenizer.eos_token_id)
            with suppress(InputError):  # no template, or one that ends answers with no token of its own
                declared.append(ChatEncoder(tokenizer).stop_token_ids)
    for ids in declared:
        found.update(ids if isinstance(ids, (list, tuple)) else [] if ids is None else [ids])
    return tuple(sorted(found))


def _load(auto_class: Any, uri: str, config: ServerConfig) -> Any:
    torch.set_num_threads(config.num_threads)
    dtype = config.dtype if config.dtype == "auto" else getattr(torch, config.dtype)
    with local_model(uri) as path:
        try:
            model = auto_class.from_pretrained(
                path,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
            )
        except (OSError, ValueError) as error:
            raise InputError(f"{uri} holds no model that can be loaded: {error}") from error
    return model.to("cuda" if config.gpus > 0 else "cpu").eval()
