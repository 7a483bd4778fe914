"""What one task of the tokenize stage does: one part of the documents becomes a training and a held-out token shard.

The documents of a shard are ordered by language, then by class of lengths, then by the hash of their text. So the
documents of one language and class are one range of it, which a mixture can weigh without touching the shard, and any
beginning of a range is a fair sample of it. However large the part, one batch of its documents is in memory at a time
(`token_spool.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Tokenizer

from cluster.contracts import storage
from cluster.contracts.commit import PartWriter, commit_part
from cluster.contracts.errors import InputError
from cluster.contracts.hashing import are_hashes_drawn
from cluster.contracts.tokens import token_dtype, write_token_shard
from dataprep.documents import Shard, doc_ids, read_kept, read_signatures
from dataprep.text.column import TextColumn
from dataprep.tokenize.config import TokenizeConfig
from dataprep.tokenize.token_spool import ChunkedSink, TokenSpool
from dataprep.tokenizer.encoders import Encoded, Encoder, encoders, fastest_of

TRAIN, HELDOUT = "train", "heldout"  # the roles of a part's files; absent where it has no such documents
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
    """Encode the kept documents of a shard and commit them as unit `key` of `output`; returns how many there were.

    `documents` is the URI of the dedupe artifact, `tokenizer` that of a `tokenizer.json`.
    """
    model, candidates = _open_tokenizer(storage.read_bytes(tokenizer), num_threads)
    separator = end_of_text_id(model, config.end_of_text)
    dtype = token_dtype(max(model.get_vocab(with_added_tokens=True).values()) + 1)
    hashes = read_signatures(documents, shard, ["hash_low"]).column("hash_low").to_numpy()
    heldout = are_hashes_drawn(hashes, fraction=config.heldout_fraction, seed=config.split_seed)
    source = source_name(shard)
    sides = {TRAIN: _Side(dtype), HELDOUT: _Side(dtype)}
    encoder: Encoder | None = None
    for batch, rows in read_kept(documents, shard, ["text", "language"]):
        if not batch.num_rows:
            continue
        texts = TextColumn(batch.column("text"))
        if encoder is None:
            sample = TextColumn(texts.texts.slice(0, _SAMPLE_DOCUMENTS))
            encoder = fastest_of(candidates, sample)
        encoded = encoder.encode(texts)
        for role, side in sides.items():
            side.add(encoded, heldout[rows] == (role == HELDOUT), separator, rows, batch.column("language"))
            side.num_bytes += int(np.diff(texts.offsets)[heldout[rows] == (role == HELDOUT)].sum())
    with commit_part(output, key) as part:
        for role, side in sides.items():
            side.write(part, role, shard.number, source, hashes, config.length_classes)
        part.metrics["encoder"] = encoder.name if encoder is not None else None
    return sum(map(len, sides.values()))


@lru_cache(maxsize=1)
def _open_tokenizer(content: bytes, num_threads: int) -> tuple[Tokenizer, list[Encoder]]:
    """The tokenizer and its encoders, kept by each process: to build their tables takes as long as 1,000 documents."""
    model = Tokenizer.from_buffer(content)
    return model, encoders(model, num_threads=num_threads)


def source_name(shard: Shard) -> str:
    """The URI of the input file that a shard came from, or of the directory of the files that were packed into it."""
    return shard.uri


class _Side:
    """The documents of one side of the split, training or held-out, as they are gathered."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._spool = TokenSpool(dtype)
        self._dtype = dtype
        self._rows: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
        self._languages: list[npt.NDArray[np.int32]] = [np.empty(0, np.int32)]  # numbers in `_numbers`
        self._numbers: dict[str, int] = {}
        self.num_bytes = 0  # of text

    def add(
        self,
        encoded: Encoded,
        is_mine_D: npt.NDArray[np.bool_],
        separator: int,
        rows_D: npt.NDArray[np.int64],
        languages_D: pa.Array,
    ) -> None:
        """Take those documents that are of this side, each with the separator behind it."""
        counts_D = np.diff(encoded.offsets)
        lengths = counts_D[is_mine_D] + 1
        tokens = np.full(int(lengths.sum()), separator, self._dtype)
        is_text = np.ones(len(tokens), bool)
        is_text[np.cumsum(lengths) - 1] = False
        tokens[is_text] = encoded.ids_T[np.repeat(is_mine_D, counts_D)]
        self._spool.add(tokens, lengths)
        self._rows.append(rows_D[is_mine_D])
        names = languages_D.filter(pa.array(is_mine_D)).fill_null("").to_pylist()
        self._languages.append(np.array([self._numbers.setdefault(n, len(self._numbers)) for n in names], np.int32))

    def __len__(self) -> int:
        return sum(map(len, self._rows))

    def write(
        self,
        part: PartWriter,
        role: str,
        shard_number: int,
        source: str,
        hashes: npt.NDArray[np.uint64],
        length_classes: Sequence[int],
    ) -> None:
        """Write the shard, unless it is empty, and its counts. `hashes` has one for every row of the part."""
        lengths, rows = self._spool.lengths_D, np.concatenate(self._rows)
        part.metrics[role] = {"documents": len(rows), "tokens": int(lengths.sum()), "bytes": self.num_bytes}
        if not len(rows):
            return
        names = sorted(self._numbers)
        places = np.argsort([self._numbers[name] for name in names])  # of each number's name among the sorted
        languages = places[np.concatenate(self._languages)]
        ends = np.array([0, *length_classes])
        classes = ends[np.searchsorted(ends, lengths, side="right") - 1]
        order = np.lexsort((hashes[rows], classes, languages))
        part.metrics[role]["groups"] = _groups(languages[order], names, classes[order], lengths[order])
        with part.open(role, f"{role}.arrow") as sink, self._spool.in_order(order) as (tokens_T, mapping):
            write_token_shard(
                cast(BinaryIO, ChunkedSink(sink, mapping)),
                tokens_T,
                np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[order])]),
                doc_ids(shard_number, rows[order]),
                source,
            )


def _groups(
    languages_D: npt.NDArray[np.int64],
    names: Sequence[str],
    classes_D: npt.NDArray[np.int64],
    lengths_D: npt.NDArray[np.int64],
) -> list[dict[str, Any]]:
    """The ranges of equal language and class of lengths, as fields of `ShardEntry`; `names` are the languages'."""
    changes = (languages_D[1:] != languages_D[:-1]) | (classes_D[1:] != classes_D[:-1])
    firsts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    tokens = np.add.reduceat(lengths_D, firsts)
    return [
        {
            "first_document": int(first),
            "num_documents": int(last - first),
            "num_tokens": int(count),
            "language": names[languages_D[first]],
            "min_length": int(classes_D[first]),
        }
        for first, last, count in zip(firsts, [*firsts[1:], len(lengths_D)], tokens, strict=True)
    ]
