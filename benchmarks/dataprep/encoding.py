"""Bar 3: tokenising by CPU time against Hugging Face `tokenizers`, one thread each, with identical ids."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from itertools import chain

os.environ["RAYON_NUM_THREADS"] = "1"  # before the library starts its threads

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from benchmarks.dataprep.documents import Document
from benchmarks.figures import Figure, ratio
from dataprep.text.column import TextColumn
from dataprep.tokenizer.bpe_training import train_bpe
from dataprep.tokenizer.encoders import Encoded, Encoder, HuggingFaceEncoder, fastest_encoder
from dataprep.tokenizer.special_tokens import SpecialTokens

_VOCAB_SIZE = 32_768
_TRAINING_DOCUMENTS = 3_000
_BATCH_DOCUMENTS = 256
_ROUNDS = 3


def train_tokenizer(documents: Sequence[Document]) -> Tokenizer:
    """A byte-level BPE tokenizer of some of the documents."""
    texts = [document.text for document in documents[:_TRAINING_DOCUMENTS]]
    return train_bpe(texts, vocab_size=_VOCAB_SIZE, min_frequency=2, special_tokens=SpecialTokens())


def speed(documents: Sequence[Document]) -> list[Figure]:
    """Bar 3: MB of text per CPU-second, in turn, and on how many documents the ids are the same."""
    tokenizer = train_tokenizer(documents)
    texts = [document.text for document in documents]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    batches = [
        TextColumn(pa.array(texts[at : at + _BATCH_DOCUMENTS], pa.large_string()))
        for at in range(0, len(texts), _BATCH_DOCUMENTS)
    ]
    fast = fastest_encoder(tokenizer, TextColumn(batches[0].texts[:32]), num_threads=1)
    own = HuggingFaceEncoder(tokenizer)
    ours, theirs = [], []
    same = 0
    for _ in range(_ROUNDS):
        ours_s, found = _encode(fast, batches)
        theirs_s, expected = _encode(own, batches)
        ours.append(megabytes / ours_s)
        theirs.append(megabytes / theirs_s)
        pairs = (zip(a, b, strict=True) for a, b in zip(found, expected, strict=True))
        same = sum(np.array_equal(a, b) for a, b in chain.from_iterable(pairs))
    mine, other = statistics.median(ours), statistics.median(theirs)
    note = f"{len(texts):,} documents, {megabytes:.1f} MB; vocabulary of {tokenizer.get_vocab_size():,}; by {fast.name}"
    return [
        Figure("3a", "tokenising", "MB/CPU-s", ratio(mine, other), 4, ours=mine, peer=other, note=note),
        Figure("3b", "documents of identical ids", "fraction", same / len(texts), 1),
    ]


def _encode(encoder: Encoder, texts: Sequence[TextColumn]) -> tuple[float, list[Encoded]]:
    started = time.process_time()
    found = [encoder.encode(batch) for batch in texts]
    return time.process_time() - started, found
