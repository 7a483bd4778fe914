"""The locks agree with `pyproject.toml`, with each other and with the environment that runs these tests."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "requirements-source.lock")
ENTRY = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>\S+)(?: ; (?P<marker>.*?))?(?: \\)?$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}(?: \\)?$")


def _pinned(file: str) -> dict[str, tuple[str, str | None]]:
    """The version and the environment marker of each package, by name. Every line must be an entry or its hash."""
    pinned: dict[str, tuple[str, str | None]] = {}
    for line in (ROOT / file).read_text().splitlines():
        if entry := ENTRY.match(line):
            assert entry["name"] not in pinned, f"{file} names {entry['name']} twice"
            pinned[entry["name"]] = entry["version"], entry["marker"]
        else:
            assert HASH.match(line), f"{file}: {line!r} is neither a pinned package nor a hash"
    return pinned


def _declared() -> list[Requirement]:
    """What `make setup` is asked for: the dependencies and the extra `dev`, the extras inside it resolved."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked, declared = [*project["dependencies"], *project["optional-dependencies"]["dev"]], []
    while asked:
        requirement = Requirement(asked.pop())
        if requirement.name == project["name"]:
            asked += [text for extra in requirement.extras for text in project["optional-dependencies"][extra]]
        else:
            declared.append(requirement)
    return declared


def test_every_declared_requirement_is_pinned_at_a_version_it_allows() -> None:
    pinned = _pinned("constraints.txt")
    declared = _declared()
    assert len(declared) > 30
    for requirement in declared:
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} is not pinned; run `make lock`"
        assert pinned[name][0] in requirement.specifier, f"{requirement} refuses {pinned[name][0]}; run `make lock`"


def test_the_locks_hold_all_of_constraints_but_torch() -> None:
    constraints = _pinned("constraints.txt")
    locked = [_pinned(file) for file in LOCKS]
    assert constraints.pop("torch")
    assert locked[0].keys().isdisjoint(locked[1])
    assert locked[0] | locked[1] == constraints


@pytest.mark.parametrize("file", LOCKS)
def test_every_locked_package_has_a_hash(file: str) -> None:
    lines = (ROOT / file).read_text().splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if ENTRY.match(line):
            assert HASH.match(following), f"{file}: no hash behind {line!r}"


def test_the_environment_is_the_locked_one() -> None:
    """A build of torch may add a local version (`+cpu`), which says what it was built for."""
    differing = []
    for name, (locked, marker) in _pinned("constraints.txt").items():
        if marker is not None and not Marker(marker).evaluate():
            continue
        try:
            installed = version(name)
        except PackageNotFoundError:
            installed = "missing"
        if installed == "missing" or Version(installed).public != locked:
            differing.append(f"{name} {installed}, not {locked}")
    assert not differing, f"run `make setup`: {'; '.join(differing)}"
