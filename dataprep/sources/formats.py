"""Which format and compression a file has, by its name. Imports nothing heavy: a spec is checked by it.

| format    | names                                   | a record                                              |
|-----------|-----------------------------------------|-------------------------------------------------------|
| warc      | .warc, .wet (.gz, .zst)                 | a response (HTML to extract) or a conversion (text)   |
| jsonl     | .jsonl, .ndjson (.gz, .zst, .bz2)       | a line; `columns` maps the fields                     |
| parquet   | .parquet                                | a row; `columns` maps the columns                     |
| html      | .html, .htm, .xhtml (.gz, .zst, .bz2)   | the file: a page to extract                           |
| text      | .txt (.gz, .zst, .bz2)                  | the file                                              |
| mediawiki | .xml (.gz, .zst, .bz2)                  | a page of the dump, wiki markup to be reduced to text |
| code      | none: only where a spec asks for it     | the file, with its language (`code_languages.py`)     |
"""

from __future__ import annotations

from typing import Literal, get_args

from cluster.contracts.compression import Codec
from cluster.contracts.errors import InputError

Format = Literal["warc", "jsonl", "parquet", "html", "text", "mediawiki", "code"]

_CODECS: dict[str, Codec] = {f".{codec}": codec for codec in get_args(Codec)}
_SUFFIXES: dict[Format, tuple[str, ...]] = {
    "warc": (".warc", ".wet"),
    "jsonl": (".jsonl", ".ndjson"),
    "parquet": (".parquet",),
    "html": (".html", ".htm", ".xhtml"),
    "text": (".txt",),
    "mediawiki": (".xml",),
}
_COMPRESSIONS: dict[Format, frozenset[Codec]] = {
    "warc": frozenset({"gz", "zst"}),
    "parquet": frozenset(),  # compressed inside
}


def format_of(uri: str, forced: Format | None = None) -> tuple[Format, Codec | None]:
    """The format (`forced`, or by the name) and the compression (always by the name) of a file.

    Raises `InputError` for a name that tells no format, or a compression that the format doesn't have.
    """
    name = uri.rsplit("/", 1)[-1].lower()
    codec = next((codec for suffix, codec in _CODECS.items() if name.endswith(suffix)), None)
    stem = name.rsplit(".", 1)[0] if codec else name
    known = forced or next((kind for kind, suffixes in _SUFFIXES.items() if stem.endswith(suffixes)), None)
    if known == "code":
        return known, None  # whatever the name
    if known is None:
        endings = ", ".join(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)
        raise InputError(
            f"{uri}: unknown format; a name must end in one of {endings} (and .gz, .zst or .bz2 behind it where"
            f" compressed), or `format` must name one of {', '.join(get_args(Format))}"
        )
    compressions = _COMPRESSIONS.get(known, frozenset(_CODECS.values()))
    if codec is not None and codec not in compressions:
        allowed = ", ".join(f".{codec}" for codec in sorted(compressions)) or "none"
        raise InputError(f"{uri}: unknown format; {known} files can't be compressed as .{codec} (allowed: {allowed})")
    return known, codec
