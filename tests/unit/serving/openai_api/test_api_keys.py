from pathlib import Path

import pytest

from cluster.contracts.errors import InputError
from serving.openai_api.api_keys import is_authorized, key_digests, read_api_keys

KEYS = ["0123456789abcdef", "fedcba9876543210"]


def test_keys_come_from_the_environment_and_the_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# mine\n\n  {KEYS[0]}  \n")
    assert read_api_keys(file, {"RAYMILL_API_KEYS": f"{KEYS[1]}, "}) == [KEYS[1], KEYS[0]]
    assert read_api_keys(None, {}) == []


def test_short_keys_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="shorter than 16"):
        read_api_keys(None, {"RAYMILL_API_KEYS": "short"})
    with pytest.raises(InputError, match="can't read"):
        read_api_keys(tmp_path / "absent", {})


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        (f"Bearer {KEYS[0]}", True),
        (f"bearer {KEYS[1]}", True),
        (f"Bearer {KEYS[0]}x", False),
        (f"Basic {KEYS[0]}", False),
        (KEYS[0], False),
        ("Bearer ", False),
        (None, False),
    ],
)
def test_only_a_bearer_of_a_key_is_authorized(header: str | None, allowed: bool) -> None:
    assert is_authorized(header, key_digests(KEYS)) is allowed
