"""Which format and compression a file of conversations has, by its name. Imports nothing heavy, for a spec's checks.

| format    | names                       | a row is                                                         |
|-----------|-----------------------------|------------------------------------------------------------------|
| `jsonl`   | .jsonl, .ndjson             | a line                                                           |
| `json`    | .json                       | an item of the array that the file is; or a line, if it is none  |
| `parquet` | .parquet                    | a row                                                            |
| `csv`     | .csv                        | a record; the first one names the columns                        |
| `tsv`     | .tsv                        | the same, with tabs                                              |
| `arrow`   | .arrow                      | a row, as `datasets` writes them with `save_to_disk`             |

All but Parquet and Arrow may be compressed as .gz, .zst or .bz2.
"""

from __future__ import annotations

from typing import Literal, get_args

from cluster.contracts.compression import Codec
from cluster.contracts.errors import InputError

FileFormat = Literal["jsonl", "json", "parquet", "csv", "tsv", "arrow"]

# What `datasets` lays beside the rows that it saves.
DESCRIPTIONS = ("dataset_info.json", "state.json", "dataset_dict.json")

_CODECS: dict[str, Codec] = {f".{codec}": codec for codec in get_args(Codec)}
_ENDINGS: dict[str, FileFormat] = {f".{name}": name for name in get_args(FileFormat)} | {".ndjson": "jsonl"}
_UNCOMPRESSED: tuple[FileFormat, ...] = ("parquet", "arrow")


def file_format(uri: str, forced: FileFormat | None = None) -> tuple[FileFormat, Codec | None]:
    """The format (`forced`, or by the name) and the compression (always by the name) of a file.

    Raises `InputError` for a name that tells no format, or a compression that the format doesn't have.
    """
    name = uri.rsplit("/", 1)[-1].lower()
    codec = next((codec for ending, codec in _CODECS.items() if name.endswith(ending)), None)
    stem = name.rsplit(".", 1)[0] if codec else name
    known = forced or next((kind for ending, kind in _ENDINGS.items() if stem.endswith(ending)), None)
    if known is None:
        raise InputError(
            f"{uri}: unknown format; a name must end in one of {', '.join(_ENDINGS)} (and .gz, .zst or .bz2 behind it "
            f"where compressed), or `file_format` must name one of {', '.join(get_args(FileFormat))}"
        )
    if codec is not None and known in _UNCOMPRESSED:
        raise InputError(f"{uri}: unknown format; {known} files are compressed inside, and not as .{codec}")
    return known, codec
