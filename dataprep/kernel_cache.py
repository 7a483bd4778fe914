"""Where Numba keeps compiled kernels, so that the next process need not compile them again."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from cluster.contracts import hashing


def keep_compiled_kernels() -> None:
    """Tell Numba where its cache is, unless the user has. Works only before a module with kernels is imported."""
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
    """The user's own cache directory, since code is loaded from it; where that can't be written, a private one.

    Its name has a digest of the kernels' sources: Numba only sees changes of the file that a kernel is in, not of the
    files of the kernels that it calls.
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
