"""The tokenizer stage: byte-level BPE trained on what dedupe left, saved as a Hugging Face tokenizer directory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.commit import WrittenFile
from cluster.contracts.errors import InputError
from dataprep.config import TokenizerConfig
from dataprep.documents import Shard, read_kept, read_shard_table, read_signatures, written_file
from dataprep.over_shards import own_errors, prepare_worker, remote_options

_FERTILITY_CHARACTERS = 2_000_000  # of the sample, to measure bytes per token on


def run(config: TokenizerConfig, inputs: Mapping[str, Artifact], output: str, context: StageContext) -> StageResult:
    """Train and save the tokenizer in one Ray task, which reads its sample from storage."""
    import ray

    context.progress.update(0, 1, "tokenizers")
    task = ray.remote(_train).options(**remote_options(config.worker), max_retries=2)
    with own_errors():
        metrics, files = ray.get(task.remote(config, inputs["documents"].uri, output, context.seed))
    context.progress.update(1, 1, "tokenizers", tokens=metrics["vocab_size"])
    return StageResult(metrics, files)


def sample_texts(artifact: str, *, max_characters: int, seed: int) -> Iterator[str]:
    """The kept documents in order, or a part of them, drawn by content, of about `max_characters`."""
    from dataprep.split import drawn

    shards = read_shard_table(artifact)
    fraction = min(1.0, max_characters / max(1.0, _kept_characters(shards)))
    for shard in shards:
        hashes = read_signatures(artifact, shard, ["hash_low"]).column("hash_low").to_numpy()
        chosen = drawn(hashes, fraction=fraction, seed=seed)
        for batch, rows in read_kept(artifact, shard, ["text"]):
            for text, is_chosen in zip(batch.column("text"), chosen[rows], strict=True):
                if is_chosen:
                    yield text.as_py()


def _kept_characters(shards: Sequence[Shard]) -> float:
    """About how many characters dedupe left, taking duplicates to be as long as the rest."""
    return sum(s.num_characters * (1 - s.num_removed / max(1, s.num_documents)) for s in shards)


def _train(config: TokenizerConfig, documents: str, output: str, seed: int) -> tuple[dict[str, Any], list[WrittenFile]]:
    prepare_worker(config.worker.num_threads)
    from dataprep.bpe import save_tokenizer, train_bpe
    from dataprep.encoder import HuggingFaceEncoder
    from dataprep.text_column import TextColumn

    counts = {"documents": 0, "characters": 0}
    head: list[str] = []
    head_characters = 0

    def texts() -> Iterator[str]:
        nonlocal head_characters
        for text in sample_texts(documents, max_characters=config.sample_characters, seed=seed):
            counts["documents"] += 1
            counts["characters"] += len(text)
            if head_characters < _FERTILITY_CHARACTERS:
                head.append(text)
                head_characters += len(text)
            yield text

    tokenizer = train_bpe(
        texts(),
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=config.special_tokens,
    )
    if not counts["documents"]:
        raise InputError(f"{documents} has no documents left to train a tokenizer on")
    with tempfile.TemporaryDirectory() as scratch:
        save_tokenizer(tokenizer, Path(scratch), special_tokens=config.special_tokens)
        files = [_publish(path, output) for path in sorted(Path(scratch).iterdir())]
    num_tokens = len(HuggingFaceEncoder(tokenizer).encode(TextColumn(pa.array(head, pa.large_string()))).ids_T)
    num_bytes = sum(len(text.encode()) for text in head)
    metrics = {
        "vocab_size": tokenizer.get_vocab_size(),
        "bytes_per_token": num_bytes / max(1, num_tokens),
        "documents": counts["documents"],
        "characters": counts["characters"],
        "special_tokens": {token: tokenizer.token_to_id(token) for token in config.special_tokens.in_order()},
    }
    return metrics, files


def _publish(path: Path, output: str) -> WrittenFile:
    content = path.read_bytes()
    storage.write_bytes(storage.join(output, path.name), content)
    return written_file(path.name, content)
