"""Where Numba keeps compiled kernels between processes."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from cluster.contracts import hashing


def keep_compiled_kernels() -> None:
    """Name Numba's cache directory, unless the user has. Only works before the first kernel's module is imported."""
    os.environ.setdefault("NUMBA_CACHE_DIR", str(_cache_directory()))


def _kernel_sources() -> str:
    """A digest of every module that a kernel is made of.

    That is this whole package, since modules without compiled code hold constants of those with it, and the module of
    `cluster.contracts` whose functions are compiled here.
    """
    digest = hashlib.sha256()
    for path in [*sorted(Path(__file__).parent.rglob("*.py")), Path(hashing.__file__)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _cache_directory() -> Path:
    """The user's own cache directory, since compiled code is loaded from it; else a private temporary one.

    It is named after the kernels' sources: Numba looks at the file that a kernel is in, not at those it calls.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = base / "raymill" / f"numba-{_kernel_sources()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if os.access(directory, os.W_OK):
            return directory
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="raymill-numba-"))
