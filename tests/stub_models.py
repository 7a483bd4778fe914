"""As much of a model directory as a spec's check looks at, for tests that load specs and train nothing."""

from __future__ import annotations

import re
from pathlib import Path

HEADS = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": (2).to_bytes(8, "little") + b"{}",
    "tokenizer.json": b"{}",
}


def write_stub_model(directory: Path) -> Path:
    """A config, a weights file without tensors and a tokenizer; what is there already stays."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in HEADS.items():
        if not (directory / name).exists():
            (directory / name).write_bytes(content)
    return directory


def spec_at_hand(path: Path, directory: Path) -> Path:
    """A shipped spec, or a copy below `directory` with a stub in place of each model that users bring themselves."""
    text = path.read_text()
    brought = set(re.findall(r"\.\./store/[\w.-]+", text))
    if not brought:
        return path
    folder = directory / "job_specs"
    folder.mkdir()
    (folder / "data").symlink_to(path.parent / "data")
    for model in brought:
        write_stub_model((folder / model).resolve())
    (folder / path.name).write_text(text)
    return folder / path.name
