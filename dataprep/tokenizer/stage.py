"""The tokenizer stage: trains byte-level BPE on the documents that dedupe left, in one task.

The artifact is a Hugging Face tokenizer directory. The sample that it is trained on is drawn by content, so that it is
the same however the documents are divided among files.
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.commit import WrittenFile
from cluster.contracts.errors import InputError
from cluster.contracts.hashing import are_hashes_drawn
from dataprep.documents import Shard, read_kept, read_shard_table, read_signatures, written_file
from dataprep.ray_tasks import own_errors, prepare_worker, remote_options
from dataprep.sampling import epochs, temperature_factors
from dataprep.tokenizer.config import TokenizerConfig

_FERTILITY_CHARACTERS = 1_000_000  # of each language's sample, to measure bytes and tokens per word on
_SAMPLE_DOCUMENTS = 32  # on which the fast encoder must agree


def run(config: TokenizerConfig, inputs: Mapping[str, Artifact], output: str, context: StageContext) -> StageResult:
    """Train and save the tokenizer in one Ray task, which reads its sample from storage."""
    import ray

    context.progress.update(0, 1, "tokenizers")
    task = ray.remote(_train).options(**remote_options(config.worker), max_retries=2)
    with own_errors():
        metrics, files = ray.get(task.remote(config, inputs["documents"].uri, output, context.seed))
    context.progress.update(1, 1, "tokenizers", tokens=metrics["vocab_size"])
    return StageResult(metrics, files)


def sample_texts(
    artifact: str,
    *,
    max_characters: int,
    seed: int,
    weights: Mapping[str, float] | None = None,
    temperature: float = 1.0,
) -> Iterator[tuple[str, str]]:
    """(text, language) of a sample of the kept documents, in order: of all, or of about `max_characters`.

    A language's share of the sample is in proportion to its characters x its weight (1 where `weights` does not name
    it), evened out by `temperature` (`dataprep.sampling`). One that has less than its share is taken whole, and the
    others get the rest. Within a language documents are drawn by a hash of their text.
    """
    shards = read_shard_table(artifact)
    fractions = _language_fractions(artifact, shards, max_characters, weights or {}, temperature)
    for shard in shards:
        hashes = read_signatures(artifact, shard, ["hash_low"]).column("hash_low").to_numpy()
        chosen = {language: are_hashes_drawn(hashes, fraction=f, seed=seed) for language, f in fractions.items()}
        for batch, rows in read_kept(artifact, shard, ["text", "language"]):
            languages = batch.column("language").fill_null("").to_pylist()
            for text, language, row in zip(batch.column("text"), languages, rows.tolist(), strict=True):
                if chosen[language][row]:
                    yield text.as_py(), language


def _language_fractions(
    artifact: str, shards: Sequence[Shard], max_characters: int, weights: Mapping[str, float], temperature: float
) -> dict[str, float]:
    """Language -> the fraction of its documents to draw."""
    characters: Counter[str] = Counter()
    for shard in shards:
        counts = read_signatures(artifact, shard, ["num_characters"]).column("num_characters").to_numpy()
        for batch, rows in read_kept(artifact, shard, ["language"]):
            languages = batch.column("language").fill_null("")
            sums = pa.table({"language": languages, "n": counts[rows]}).group_by("language").aggregate([("n", "sum")])
            characters.update(
                dict(zip(sums.column("language").to_pylist(), sums.column("n_sum").to_pylist(), strict=True))
            )
    sizes = np.array(list(characters.values()), float)
    weights_G = np.array([weights.get(language, 1.0) for language in characters])
    weights_G *= temperature_factors(sizes, temperature)
    found = epochs(sizes, weights_G, total=float(min(max_characters, sizes.sum())), max_epochs=1)
    return dict(zip(characters, found.tolist(), strict=True))


def _train(config: TokenizerConfig, documents: str, output: str, seed: int) -> tuple[dict[str, Any], list[WrittenFile]]:
    prepare_worker(config.worker.num_threads)
    from dataprep.tokenizer.bpe_training import save_tokenizer, train_bpe

    counts = {"documents": 0, "characters": 0}
    heads: dict[str, list[str]] = defaultdict(list)
    head_characters: Counter[str] = Counter()

    def texts() -> Iterator[str]:
        sample = sample_texts(
            documents,
            max_characters=config.sample_characters,
            seed=seed,
            weights=config.languages,
            temperature=config.temperature,
        )
        for text, language in sample:
            counts["documents"] += 1
            counts["characters"] += len(text)
            if head_characters[language] < _FERTILITY_CHARACTERS:
                heads[language].append(text)
                head_characters[language] += len(text)
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
    metrics = {
        "vocab_size": tokenizer.get_vocab_size(),
        **fertility(tokenizer, heads),
        "documents": counts["documents"],
        "characters": counts["characters"],
        "special_tokens": {token: tokenizer.token_to_id(token) for token in config.special_tokens.in_order()},
    }
    return metrics, files


def fertility(tokenizer: Tokenizer, texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """How well the tokenizer compresses: `bytes_per_token` of all texts, and a table by language, most text first.

    The table (`fertility`) has a language's `bytes_per_token` and its fertility, `tokens_per_word` (Rust et al. 2021,
    arXiv:2012.15613). Words are those that the filters count; in scripts without spaces each letter is one.
    """
    from dataprep.text.column import TextColumn
    from dataprep.tokenizer.encoders import fastest_encoder

    rows, sums = {}, Counter[str]()
    for language, texts_D in sorted(texts.items(), key=lambda item: -sum(map(len, item[1]))):
        column = TextColumn(pa.array(texts_D, pa.large_string()))
        sample = TextColumn(column.texts.slice(0, _SAMPLE_DOCUMENTS))
        num_tokens = len(fastest_encoder(tokenizer, sample, num_threads=1).encode(column).ids_T)
        num_words = int(column.words.counts_D().sum())
        sums.update(tokens=num_tokens, bytes=column.num_bytes)
        rows[language or "und"] = {
            "tokens_per_word": round(num_tokens / max(1, num_words), 4),
            "bytes_per_token": round(column.num_bytes / max(1, num_tokens), 4),
        }
    return {"bytes_per_token": sums["bytes"] / max(1, sums["tokens"]), "fertility": rows}


def _publish(path: Path, output: str) -> WrittenFile:
    content = path.read_bytes()
    storage.write_bytes(storage.join(output, path.name), content)
    return written_file(path.name, content)
