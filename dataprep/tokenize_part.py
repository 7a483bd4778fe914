"""One part of the documents to one part of the tokens: a training and a held-out shard."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Tokenizer

from cluster.contracts import storage
from cluster.contracts.commit import PartWriter, commit_part
from cluster.contracts.errors import InputError
from cluster.contracts.tokens import token_dtype, write_token_shard
from dataprep.config import TokenizeConfig
from dataprep.documents import Shard, doc_ids, read_kept, read_signatures
from dataprep.encoder import Encoder, fastest_encoder
from dataprep.split import drawn

TRAIN, HELDOUT = "train", "heldout"  # the roles of a part's files; absent where it has no such documents
_BATCH_DOCUMENTS = 256  # encoded at once
_SAMPLE_DOCUMENTS = 32  # on which the fast encoder must agree


def end_of_text_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of the token between documents. Raises `InputError` where the tokenizer has no such token."""
    found = tokenizer.token_to_id(token)
    if found is None:
        known = ", ".join(added.content for added in tokenizer.get_added_tokens_decoder().values())
        raise InputError(
            f"end_of_text {token!r} is no token of this tokenizer; its special tokens are {known or 'none'}"
        )
    return int(found)


def tokenize_part(
    shard: Shard, *, documents: str, tokenizer: str, output: str, key: str, config: TokenizeConfig, num_threads: int
) -> int:
    """Encode the kept documents of a shard and commit them as unit `key`; returns how many there were.

    `documents` is the URI of the dedupe artifact, `tokenizer` that of a tokenizer.json.
    """
    model = Tokenizer.from_buffer(storage.read_bytes(tokenizer))
    separator = end_of_text_id(model, config.end_of_text)
    dtype = token_dtype(max(model.get_vocab(with_added_tokens=True).values()) + 1)
    hashes = read_signatures(documents, shard, ["hash_low"]).column("hash_low").to_numpy()
    heldout = drawn(hashes, fraction=config.heldout_fraction, seed=config.split_seed)
    source = shard.uri.rsplit("/", 1)[-1]
    sides = {TRAIN: _Side(dtype), HELDOUT: _Side(dtype)}
    encoder: Encoder | None = None
    for texts, rows in _batches(documents, shard):
        if encoder is None:
            encoder = fastest_encoder(model, texts[:_SAMPLE_DOCUMENTS], num_threads=num_threads)
        for text, ids, row in zip(texts, encoder.encode(texts), rows, strict=True):
            sides[HELDOUT if heldout[row] else TRAIN].add(np.append(ids, separator), row, len(text.encode()))
    with commit_part(output, key) as part:
        for role, side in sides.items():
            side.write(part, role, shard.number, source)
        part.metrics["encoder"] = encoder.name if encoder is not None else None
    return sum(len(side.rows) for side in sides.values())


class _Side:
    """The documents of one side of the split, gathered."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._ids: list[npt.NDArray[Any]] = []
        self.rows: list[int] = []
        self._num_bytes = 0

    def add(self, ids: npt.NDArray[np.int64], row: int, num_bytes: int) -> None:
        self._ids.append(ids.astype(self._dtype))
        self.rows.append(row)
        self._num_bytes += num_bytes

    def write(self, part: PartWriter, role: str, shard_number: int, source: str) -> None:
        lengths = np.fromiter((len(ids) for ids in self._ids), np.int64, len(self._ids))
        part.metrics[role] = {
            "documents": len(self.rows),
            "tokens": int(lengths.sum()),
            "bytes": self._num_bytes,
        }
        if not self.rows:
            return
        with part.open(role, f"{role}.arrow") as sink:
            write_token_shard(
                sink,
                np.concatenate(self._ids),
                np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
                doc_ids(shard_number, np.array(self.rows, np.int64)),
                [source] * len(self.rows),
            )


def _batches(documents: str, shard: Shard) -> Iterator[tuple[list[str], list[int]]]:
    """Texts and their rows, `_BATCH_DOCUMENTS` at a time."""
    texts: list[str] = []
    rows: list[int] = []
    kept = read_kept(documents, shard, ["text"])
    pairs = chain.from_iterable(
        zip(_strings(batch.column("text")), numbers.tolist(), strict=True) for batch, numbers in kept
    )
    for text, row in pairs:
        texts.append(text)
        rows.append(row)
        if len(texts) == _BATCH_DOCUMENTS:
            yield texts, rows
            texts, rows = [], []
    if texts:
        yield texts, rows


def _strings(column: pa.Array) -> list[str]:
    return column.to_pylist()
