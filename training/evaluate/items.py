"""The file of one model's measurements: a row per figure and item, from which figures and their intervals are made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.contracts import storage
from training.evaluate.statistics import ItemValues

SCHEMA = pa.schema(
    [
        ("figure", pa.string()),
        ("item", pa.string()),
        ("cluster", pa.string()),
        ("numerator", pa.float64()),
        ("denominator", pa.float64()),
    ]
)
Row = tuple[str, str, float, float]  # item, cluster, numerator, denominator


def values_of(rows: Iterable[Row]) -> ItemValues:
    """The rows of one figure as columns."""
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    items, clusters, numerators, denominators = columns
    return ItemValues(
        tuple(map(str, items)),
        tuple(map(str, clusters)),
        np.array(numerators, np.float64),
        np.array(denominators, np.float64),
    )


def items_parquet(figures: Mapping[str, ItemValues]) -> bytes:
    """All figures of a model as a Parquet file."""
    tables = [
        pa.table(
            {
                "figure": pa.array([figure] * len(values.items), pa.string()),
                "item": pa.array(values.items, pa.string()),
                "cluster": pa.array(values.clusters, pa.string()),
                "numerator": values.numerators_N,
                "denominator": values.denominators_N,
            },
            schema=SCHEMA,
        )
        for figure, values in figures.items()
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables([SCHEMA.empty_table(), *tables]), sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def read_items(uri: str) -> dict[str, ItemValues]:
    """The figures in such a file, in the order in which they were written."""
    rows: dict[str, list[Row]] = {}
    for row in storage.read_table(uri).to_pylist():
        found = (row["item"], row["cluster"], row["numerator"], row["denominator"])
        rows.setdefault(row["figure"], []).append(found)
    return {figure: values_of(found) for figure, found in rows.items()}


def grouped(figure: str, rows: Sequence[Row], groups: Sequence[str | None]) -> dict[str, ItemValues]:
    """A figure over all items, and under "FIGURE/GROUP" over those of each group."""
    found = {figure: values_of(rows)}
    for group in sorted({group for group in groups if group is not None}):
        found[f"{figure}/{group}"] = values_of(row for row, of in zip(rows, groups, strict=True) if of == group)
    return found
