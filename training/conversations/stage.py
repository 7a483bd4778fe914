"""The conversations stage: conversations read once from files, and split by first prompt for all stages that follow.

Rows read = training + held out + dropped by reason + quarantined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.errors import InputError
from training.conversations.artifact import (
    DROPPED_FILE,
    FILES,
    ReadConversation,
    conversations_parquet,
    dropped_parquet,
)
from training.conversations.config import ConversationsConfig
from training.conversations.reading import QUARANTINE_FILE, quarantine_parquet, read_conversation_files
from training.conversations.splitting import deduplicated, split_conversations
from training.export import write_file


def run(config: ConversationsConfig, inputs: Mapping[str, Artifact], output: str, context: StageContext) -> StageResult:
    """Write both sides of the split, the rows left out and those that were no conversations. Needs no Ray.

    Raises `InputError` where no row is a conversation, or none is left to train on.
    """
    read, quarantined = read_conversation_files(config.inputs)
    distinct = deduplicated(read) if config.deduplicate else read
    split = split_conversations(distinct, fraction=config.heldout_fraction, seed=config.split_seed)
    if not split.train:
        raise InputError(
            f"{len(read)} conversations leave none to train on (heldout_fraction {config.heldout_fraction})"
        )
    kept = {id(row) for row in distinct}
    dropped: list[tuple[ReadConversation, str]] = [(row, "duplicate") for row in read if id(row) not in kept]
    dropped += [(row, "asks_a_heldout_prompt") for row in split.leaking]
    files = [
        write_file(output, FILES["train"], conversations_parquet(split.train)),
        write_file(output, FILES["heldout"], conversations_parquet(split.heldout)),
        write_file(output, DROPPED_FILE, dropped_parquet(dropped)),
        write_file(output, QUARANTINE_FILE, quarantine_parquet(quarantined)),
    ]
    num_rows = len(read) + len(quarantined)
    context.progress.update(num_rows, num_rows, "conversations")
    reasons = Counter(reason for _, reason in dropped)
    metrics = {
        "num_rows": num_rows,
        "num_train": len(split.train),
        "num_heldout": len(split.heldout),
        "num_dropped": len(dropped),
        **{f"num_dropped_{reason}": count for reason, count in sorted(reasons.items())},
        "num_quarantined": len(quarantined),
        "quarantined_by_reason": dict(sorted(Counter(row.reason for row in quarantined).items())),
    }
    return StageResult(metrics, files)
