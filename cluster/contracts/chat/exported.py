"""Writes into a model directory how its model chats: where answers end, the template, the padding token.

Whoever loads the directory then stops where the model was taught to: transformers' `generate` reads
generation_config.json (config.json where there is none), other servers the tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cluster.contracts.chat.encoder import STOP_TOKEN_KEY, ChatEncoder

_CONFIG, _GENERATION = "config.json", "generation_config.json"
_TOKENIZER, _LEGACY_MAP = "tokenizer_config.json", "special_tokens_map.json"  # transformers 4 reads the second too


def write_chat(directory: Path, encoder: ChatEncoder) -> None:
    """Make the model in a local `directory`, with its tokenizer's files, one that chats as `encoder` does.

    The token that ends an answer becomes the first of `eos_token_id`. The ids that stand there already are kept, since
    the model may still emit them. The tokenizer's `eos_token` becomes the same token, but where the template writes
    `eos_token` itself: it would write another text then. Files in which nothing changes keep their bytes.
    """
    tokenizer = encoder.tokenizer
    configs = {name: _read(directory / name) for name in (_CONFIG, _GENERATION) if (directory / name).exists()}
    declared = [ids for config in configs.values() for ids in _listed(config.get("eos_token_id"))]
    ends = list(dict.fromkeys([*encoder.stop_token_ids, *declared, *_listed(tokenizer.eos_token_id)]))
    of_model = {"eos_token_id": ends[0] if len(ends) == 1 else ends, "pad_token_id": tokenizer.pad_token_id}
    for name, config in configs.items():
        text_config = config.get("text_config")
        if isinstance(text_config, dict):  # of a model that sees or hears too
            config["text_config"] = {**text_config, **_known(of_model)}
        _write(directory / name, {**config, **_known(of_model)})

    template = encoder.template.source()
    of_tokenizer: dict[str, Any] = {"pad_token": tokenizer.pad_token}
    if not re.search(r"\beos_token\b", template):
        of_tokenizer["eos_token"] = encoder.stop_tokens[0]
    for name in (_TOKENIZER, _LEGACY_MAP):
        if (directory / name).exists():
            _write(directory / name, {**_read(directory / name), **_known(of_tokenizer)})
    settings = _read(directory / _TOKENIZER) if (directory / _TOKENIZER).exists() else {}
    if encoder.stop_token is not None:
        _write(directory / _TOKENIZER, {**settings, STOP_TOKEN_KEY: encoder.stop_token})
    if encoder.template_is_given:
        (directory / "chat_template.jinja").write_text(template)
        settings = _read(directory / _TOKENIZER)
        _write(directory / _TOKENIZER, {key: value for key, value in settings.items() if key != "chat_template"})


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _listed(ids: Any) -> Iterable[int]:
    return ids if isinstance(ids, list | tuple) else [] if ids is None else [ids]


def _read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text())
    return values


def _write(path: Path, values: Mapping[str, Any]) -> None:
    if not path.exists() or _read(path) != values:
        path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n")
