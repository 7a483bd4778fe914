"""The footer of a Parquet file is tried in a child process first (`killable_process.py`): some damaged ones kill Arrow.

Arrow's C++ code throws an exception where Python's bindings let none through, so the process ends and no `except`
helps. Of 8,000 files with up to four bytes of the footer changed some five did that, for a wrong size of a column's
histogram; of 2,000 with such changes in the data none did. So the footer alone is tried, once for each file or range. A
trial takes 0.1 ms, the first one 0.2 s.
"""

from __future__ import annotations

from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

from dataprep.killable_process import Failure, KillableMap

_MAGIC = b"PAR1"
_TAIL_BYTES = 8  # the footer's length, 4 bytes, and the magic
_MAX_FOOTER_BYTES = 256 << 20
_TIMEOUT_S = 60.0
_MEMORY_BYTES = 4 << 30


def footer_problem(file: pa.NativeFile) -> str | None:
    """Why this process must not open the footer of a file; None where it may, if only to be told what is wrong with it.

    Raises `OSError` where the store fails, `StageFailed` where the child can't be started.
    """
    size = file.size()
    if size < _TAIL_BYTES + len(_MAGIC):
        return None
    file.seek(size - _TAIL_BYTES)
    tail = file.read(_TAIL_BYTES)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or length > size - _TAIL_BYTES - len(_MAGIC):
        return None
    if length > _MAX_FOOTER_BYTES:
        return f"a footer of {length} bytes; {_MAX_FOOTER_BYTES} allowed"
    file.seek(size - _TAIL_BYTES - length)
    (outcome,) = footer_trial()([file.read(length)])
    return f"reading its footer: {outcome.detail}" if isinstance(outcome, Failure) else None


@lru_cache(maxsize=1)
def footer_trial() -> KillableMap[bytes, None]:
    """The child process that tries footers, kept from file to file."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["x"]}), sink)
    small = sink.getvalue().to_pybytes()
    length = int.from_bytes(small[-_TAIL_BYTES:-4], "little")
    warm_up = small[-_TAIL_BYTES - length : -_TAIL_BYTES]
    return KillableMap(_open, warm_up=warm_up, timeout_s=_TIMEOUT_S, memory_bytes=_MEMORY_BYTES)


def _open(footer: bytes) -> None:
    """Ask a file without data all that a reader asks of its footer. Errors are the reader's to report."""
    whole = b"".join((_MAGIC, footer, len(footer).to_bytes(4, "little"), _MAGIC))
    try:
        parquet = pq.ParquetFile(pa.BufferReader(whole))
        _ = parquet.schema_arrow
        row_group_begins(parquet.metadata)
    except MemoryError:
        raise
    except Exception:
        return


def row_group_begins(metadata: pq.FileMetaData) -> list[int]:
    """Where each row group's first column begins in the file, in bytes."""
    begins = []
    for number in range(metadata.num_row_groups):
        column = metadata.row_group(number).column(0)
        pages = [column.data_page_offset, *([column.dictionary_page_offset] if column.has_dictionary_page else [])]
        begins.append(int(min(pages)))
    return begins
