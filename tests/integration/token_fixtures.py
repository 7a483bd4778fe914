"""A tokenizer and token shards small enough to train on in seconds."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cluster.contracts.artifacts import Artifact, Manifest, open_artifact, write_manifest
from cluster.contracts.tokens import ShardEntry, write_token_index, write_token_shard

VOCAB_SIZE = 300


def make_tokenizer(directory: Path) -> Artifact:
    """A byte-level BPE of `VOCAB_SIZE` tokens, as a tokenizer artifact."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(str(n * 7919) for n in range(2000))], trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    ).save_pretrained(directory)
    write_manifest(str(directory), Manifest("tokenizer", "tokenizer-1", {}, {}), [])
    return open_artifact(str(directory), kind="tokenizer")


def make_tokens(directory: Path, *, num_tokens: int = 6000) -> Artifact:
    """Two training shards and a held-out one, of a language in which each token is 1, 2 or 3 after the last."""
    directory.mkdir(parents=True)
    generator = np.random.default_rng(0)
    entries = []
    for index, (count, heldout) in enumerate([(num_tokens // 2, False), (num_tokens // 2, False), (900, True)]):
        tokens_T = (np.cumsum(generator.integers(1, 4, count)) % VOCAB_SIZE).astype(np.uint16)
        offsets = np.array([0, count // 3, count], np.int64)
        path = directory / f"shard-{index:05d}.arrow"
        with open(path, "wb") as sink:
            write_token_shard(sink, tokens_T, offsets, np.arange(2, dtype=np.int64), ["test", "test"])
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        entries.append(ShardEntry(path.name, len(content), digest, 2, count, heldout))
    write_token_index(str(directory), entries)
    write_manifest(str(directory), Manifest("tokenize", "tokens-1", {}, {"tokenizer": "tokenizer-1"}), [])
    return open_artifact(str(directory), kind="tokenize")
