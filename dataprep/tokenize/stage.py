"""The tokenize stage: the documents that dedupe left become token shards; each part is one task and one commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from tokenizers import Tokenizer

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.commit import CommittedPart, committed_parts
from cluster.contracts.errors import InputError
from cluster.contracts.tokens import INDEX, ShardEntry, write_token_index
from dataprep.documents import Shard, read_shard_table, written_file
from dataprep.ray_tasks import AlreadyDone, run_shard_tasks
from dataprep.tokenize.config import TokenizeConfig
from dataprep.tokenize.part import HELDOUT, TRAIN, end_of_text_id, source_name, tokenize_part


def run(config: TokenizeConfig, inputs: Mapping[str, Artifact], output: str, context: StageContext) -> StageResult:
    """Write a training and a held-out shard for each part, then the index. What is committed already is kept."""
    documents = inputs["documents"].uri
    tokenizer = inputs["tokenizer"].path("tokenizer.json")
    model = _open_tokenizer(tokenizer)
    separator = end_of_text_id(model, config.end_of_text)
    shards = read_shard_table(documents)
    done = committed_parts(output)
    run_shard_tasks(
        partial(_tokenize, documents=documents, tokenizer=tokenizer, output=output, config=config),
        [asdict(shard) for shard in shards if _key(shard.number) not in done],
        workers=config.workers,
        max_workers=config.max_workers,
        progress=context.progress,
        already_done=AlreadyDone(len(done), sum(_documents(part) for part in done.values())),
    )
    committed = committed_parts(output)
    return _finish(output, shards, [committed[_key(shard.number)] for shard in shards], model, separator)


def _tokenize(row: dict[str, Any], *, documents: str, tokenizer: str, output: str, config: TokenizeConfig) -> int:
    shard = Shard.from_row(row)
    return tokenize_part(
        shard,
        documents=documents,
        tokenizer=tokenizer,
        output=output,
        key=_key(shard.number),
        config=config,
        num_threads=config.workers.num_threads,
    )


def _key(shard_number: int) -> str:
    return f"part-{shard_number:06d}"


def _documents(part: CommittedPart) -> int:
    return int(part.metrics[TRAIN]["documents"] + part.metrics[HELDOUT]["documents"])


def _open_tokenizer(uri: str) -> Tokenizer:
    try:
        return Tokenizer.from_buffer(storage.read_bytes(uri))
    except FileNotFoundError as error:
        raise InputError(
            f"{uri} is missing; the input `tokenizer` must be a directory with a tokenizer.json"
        ) from error
    except Exception as error:  # the library raises bare Exceptions for a bad file
        raise InputError(f"{uri} can't be read as a tokenizer: {error}") from error


def _finish(
    output: str, shards: Sequence[Shard], parts: Sequence[CommittedPart], model: Tokenizer, separator: int
) -> StageResult:
    entries = [
        ShardEntry(file.name, file.size, file.sha256, heldout=role == HELDOUT, source=source_name(shard), **group)
        for role in (TRAIN, HELDOUT)
        for shard, part in zip(shards, parts, strict=True)
        if (file := part.files.get(role)) is not None
        for group in part.metrics[role]["groups"]
    ]
    index = write_token_index(output, entries)
    totals = {
        prefix + figure: sum(part.metrics[role][figure] for part in parts)
        for prefix, role in (("", TRAIN), ("heldout_", HELDOUT))
        for figure in ("documents", "tokens", "bytes")
    }
    metrics = {
        **totals,
        "vocab_size": model.get_vocab_size(with_added_tokens=True),
        "end_of_text_id": separator,
        **{f"by_{figure}": _tokens_by(entries, figure) for figure in ("language", "min_length")},
        "encoders": dict(sorted(Counter(part.metrics["encoder"] for part in parts if part.metrics["encoder"]).items())),
    }
    return StageResult(metrics, [written_file(INDEX, index), *dict.fromkeys(entry.file for entry in entries)])


def _tokens_by(entries: Sequence[ShardEntry], figure: str) -> dict[str, int]:
    """Training tokens by the values of a field of the index, most first."""
    counts: Counter[str] = Counter()
    for entry in entries:
        if not entry.heldout:
            counts[str(getattr(entry, figure))] += entry.num_tokens
    return dict(counts.most_common())
