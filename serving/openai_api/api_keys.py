"""API keys: read from the environment or a file, never from a spec. Servers only ever see their digests."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.contracts.errors import InputError

KEYS_VARIABLE = "RAYMILL_API_KEYS"
MIN_KEY_LENGTH = 16


def read_api_keys(file: Path | None = None, environment: Mapping[str, str] = os.environ) -> list[str]:
    """The keys of `file` (one a line, `#` comments) and of `RAYMILL_API_KEYS` (separated by commas).

    Raises `InputError` for a file that can't be read and for a key that can be guessed.
    """
    found = environment.get(KEYS_VARIABLE, "").split(",")
    if file is not None:
        try:
            found += [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
        except OSError as error:
            raise InputError(f"can't read the API keys in {file}: {error}") from error
    keys = [key.strip() for key in found if key.strip()]
    if any(len(key) < MIN_KEY_LENGTH for key in keys):
        raise InputError(f"an API key is shorter than {MIN_KEY_LENGTH} characters; `openssl rand -hex 24` makes one")
    return keys


def key_digests(keys: Sequence[str]) -> tuple[bytes, ...]:
    """What a server keeps of the keys."""
    return tuple(hashlib.sha256(key.encode()).digest() for key in keys)


def is_authorized(authorization: str | None, digests: Sequence[bytes]) -> bool:
    """Whether an `Authorization: Bearer KEY` header names one of the keys. Takes the same time for any wrong key."""
    scheme, _, key = (authorization or "").partition(" ")
    digest = hashlib.sha256(key.strip().encode()).digest()
    matches = [hmac.compare_digest(digest, known) for known in digests]
    return scheme.lower() == "bearer" and any(matches)
