"""Which documents are source code, by the ending of their name: rules made for prose do not fit them."""

from __future__ import annotations

from dataprep.sources.records import Provenance

_ENDINGS = frozenset(
    "asm bash bat c cc cfg clj cmake cpp cs css cu cxx d dart el erl ex f90 fs go gradle groovy h hh hpp hs ini ipynb "
    "java jl js json jsx kt lua m mjs ml nim nix pas php pl pm proto ps1 py pyi r rb rs s sass scala scss sh sol sql "
    "sv swift tcl tex tf toml ts tsx v vb vhdl vue xml yaml yml zig".split()
)
_SOURCES = frozenset("bz2 gz json jsonl parquet warc xml zst".split())  # of an input file: a format, not a language


def is_source_code(place: Provenance) -> bool:
    """Whether a document's URL, or else its input file, is named like a program."""
    if place.url:
        return _ending(place.url.split("?")[0].split("#")[0]) in _ENDINGS
    return _ending(place.uri) in _ENDINGS - _SOURCES


def _ending(path: str) -> str:
    name = path.rsplit("/", 1)[-1]
    return name.rpartition(".")[2].lower() if "." in name else ""
