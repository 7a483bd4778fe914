"""What the sources of tokens are called: short names for people, and patterns in a spec.

An index names a source by its URI, so that `a/part-0.jsonl` and `b/part-0.jsonl` stay apart in whatever mixture they
meet. It is the URI of the input file; for small files that were packed together, that of the directory which the spec's
input covers.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase


def short_names(sources: Iterable[str]) -> dict[str, str]:
    """Source -> its name without the directories that all sources share. Different sources have different names."""
    paths = {source: source.split("/") for source in sources}
    shared = _num_shared([path[:-1] for source, path in paths.items() if source])
    return {source: "/".join(path[shared:]) for source, path in paths.items()}


def fits(source: str, pattern: str) -> bool:
    """Whether a pattern fits a source's URI, or the end of it that begins with a directory or with the file's name.

    "*" stands for a part of one name and "**" for any directories. A "/*" or "/" at the end, as in "books/*", stands
    for all that is in a directory, and for the directory itself, which is a source where its small files were packed.
    """
    steps = pattern.split("/")
    if len(steps) > 1 and steps[-1] in ("", "*"):
        steps[-1] = "**"
    is_whole = steps[0] == "" or steps[0].endswith(":")  # "/data/x.jsonl", "s3://bucket/x.jsonl"
    return _fits(source.split("/"), steps if is_whole else ["**", *steps])


def _fits(path: Sequence[str], steps: Sequence[str]) -> bool:
    if not steps:
        return not path
    if steps[0] == "**":
        return any(_fits(path[begin:], steps[1:]) for begin in range(len(path) + 1))
    return bool(path) and fnmatchcase(path[0], steps[0]) and _fits(path[1:], steps[1:])


def input_directories(matched: Iterable[Sequence[str]]) -> dict[str, str]:
    """The URI of each file -> the lowest directory that holds all files of the first pattern that it matches.

    `matched` has the files of each pattern.
    """
    found: dict[str, str] = {}
    for uris in matched:
        directory = common_directory(uris) if uris else ""
        for uri in uris:
            found.setdefault(uri, directory)
    return found


def common_directory(uris: Iterable[str]) -> str:
    """The lowest directory that holds all of these files."""
    directories = [posixpath.dirname(uri).split("/") for uri in uris]
    return "/".join(directories[0][: _num_shared(directories)]) or posixpath.sep


def _num_shared(paths: list[list[str]]) -> int:
    """How many steps, from the beginning on, all paths share."""
    if not paths:
        return 0
    first, last = min(paths), max(paths)  # what these two share, all between them do
    return next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
