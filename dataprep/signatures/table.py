"""The signatures of a column of documents as a table: a row a document, as they lie beside a part's documents."""

from __future__ import annotations

import pyarrow as pa

from dataprep.documents import signature_schema
from dataprep.signatures import exact, minhash
from dataprep.signatures.config import MinHashSettings
from dataprep.text.column import TextColumn


def schema(settings: MinHashSettings) -> pa.Schema:
    """The schema of the table that `signatures` makes."""
    return signature_schema(settings.num_hashes, pa.from_numpy_dtype(minhash.DTYPE))


def signatures(column: TextColumn, settings: MinHashSettings) -> pa.Table:
    """A row for each document: the hash of its text, its length and its MinHash signature."""
    values_DH = minhash.signatures(
        column.terms, num_hashes=settings.num_hashes, ngram=settings.ngram, seed=settings.seed
    )
    high_D, low_D = exact.text_hashes(column)
    minhash_column = pa.FixedSizeListArray.from_arrays(pa.array(values_DH.reshape(-1)), settings.num_hashes)
    return pa.table([high_D, low_D, column.num_chars_D, minhash_column], schema=schema(settings))
