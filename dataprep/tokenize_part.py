"""One part of the documents to one part of the tokens: a training and a held-out shard."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from cluster.contracts import storage
from cluster.contracts.commit import PartWriter, commit_part
from cluster.contracts.errors import InputError
from cluster.contracts.tokens import token_dtype, write_token_shard
from dataprep.config import TokenizeConfig
from dataprep.documents import Shard, doc_ids, read_kept, read_signatures
from dataprep.encoder import Encoded, Encoder, fastest_encoder
from dataprep.split import drawn
from dataprep.text_column import TextColumn

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
    for batch, rows in read_kept(documents, shard, ["text"]):
        texts = TextColumn(batch.column("text"))
        if encoder is None:
            sample = TextColumn(texts.texts.slice(0, _SAMPLE_DOCUMENTS))
            encoder = fastest_encoder(model, sample, num_threads=num_threads)
        encoded = encoder.encode(texts)
        for role, side in sides.items():
            side.add(encoded, heldout[rows] == (role == HELDOUT), separator, rows, np.diff(texts.offsets))
    with commit_part(output, key) as part:
        for role, side in sides.items():
            side.write(part, role, shard.number, source)
        part.metrics["encoder"] = encoder.name if encoder is not None else None
    return sum(map(len, sides.values()))


class _Side:
    """The documents of one side of the split, gathered."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._tokens: list[npt.NDArray[Any]] = [np.empty(0, dtype)]
        self._lengths: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
        self._rows: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
        self._num_bytes = 0

    def add(
        self,
        encoded: Encoded,
        is_mine_D: npt.NDArray[np.bool_],
        separator: int,
        rows_D: npt.NDArray[np.int64],
        num_bytes_D: npt.NDArray[np.int64],
    ) -> None:
        """Take the documents of this side, each with the separator behind it."""
        counts_D = np.diff(encoded.offsets)
        lengths = counts_D[is_mine_D] + 1
        tokens = np.full(int(lengths.sum()), separator, self._tokens[0].dtype)
        is_text = np.ones(len(tokens), bool)
        is_text[np.cumsum(lengths) - 1] = False
        tokens[is_text] = encoded.ids_T[np.repeat(is_mine_D, counts_D)]
        self._tokens.append(tokens)
        self._lengths.append(lengths)
        self._rows.append(rows_D[is_mine_D])
        self._num_bytes += int(num_bytes_D[is_mine_D].sum())

    def __len__(self) -> int:
        return sum(map(len, self._rows))

    def write(self, part: PartWriter, role: str, shard_number: int, source: str) -> None:
        lengths, rows = np.concatenate(self._lengths), np.concatenate(self._rows)
        part.metrics[role] = {"documents": len(rows), "tokens": int(lengths.sum()), "bytes": self._num_bytes}
        if not len(rows):
            return
        with part.open(role, f"{role}.arrow") as sink:
            write_token_shard(
                sink,
                np.concatenate(self._tokens),
                np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
                doc_ids(shard_number, rows),
                [source] * len(rows),
            )
