"""The Parquet files of one part, open for writing side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.contracts.commit import PartWriter

_DICTIONARY_COLUMNS = ["uri", "language", "reason"]  # few values; the rest is stored as it is


@contextmanager
def open_tables(part: PartWriter, schemas: Mapping[str, pa.Schema]) -> Iterator[dict[str, pq.ParquetWriter]]:
    """A writer for each role, whose file is named after it."""
    with ExitStack() as stack:
        yield {
            role: stack.enter_context(
                pq.ParquetWriter(
                    stack.enter_context(part.open(role, f"{role}.parquet")),
                    schema,
                    compression="zstd",
                    use_dictionary=[name for name in schema.names if name in _DICTIONARY_COLUMNS],
                )
            )
            for role, schema in schemas.items()
        }
