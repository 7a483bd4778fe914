"""Documents artifacts made by hand: one part per list of texts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster.contracts.commit import WrittenFile
from cluster.contracts.storage import relative_uri
from dataprep.documents import (
    DOCUMENT_SCHEMA,
    REMOVAL_SCHEMA,
    Shard,
    signature_schema,
    write_shard_table,
    write_table,
)


def write_documents(
    root: Path,
    parts: Sequence[Sequence[str]],
    removed: Sequence[Sequence[int]] = (),
    languages: Sequence[Sequence[str]] = (),
) -> tuple[str, list[Shard]]:
    """An artifact whose part i holds `parts[i]`, less the rows `removed[i]`; its URI and shards."""
    directory, artifact = str(root / "parts" / "clean"), str(root / "dedupe" / "f00d")
    rng = np.random.default_rng(0)
    shards = []
    for number, texts in enumerate(parts):
        count = len(texts)
        columns = {name: pa.nulls(count, DOCUMENT_SCHEMA.field(name).type) for name in DOCUMENT_SCHEMA.names}
        columns["text"] = pa.array(texts, pa.large_string())
        if languages:
            columns["language"] = pa.array(languages[number], pa.string())
        documents = write_table(directory, f"{number}.documents", pa.table(columns, schema=DOCUMENT_SCHEMA))
        hashes = rng.integers(0, 2**64, (2, count), dtype=np.uint64)
        minhash = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(count * 2, np.uint32)), 2)
        signatures = pa.table(
            [hashes[0], hashes[1], [len(t) for t in texts], minhash], schema=signature_schema(2, pa.uint32())
        )
        rows = list(removed[number]) if removed else []
        removals = pa.table(
            {
                "row": rows,
                "reason": pa.array(["near_duplicate"] * len(rows)).dictionary_encode(),
                "survivor": rows,
                "corpus": [0] * len(rows),
            },
        )
        shards.append(
            Shard(
                number=number,
                uri=f"/data/input-{number}.jsonl",
                key=f"k{number}",
                parts=relative_uri(directory, base=artifact),
                num_documents=count,
                num_characters=sum(map(len, texts)),
                documents=documents,
                signatures=write_table(directory, f"{number}.signatures", signatures),
                dropped=WrittenFile("none", 0, ""),
                quarantined=WrittenFile("none", 0, ""),
                removals=write_table(artifact, f"{number}.removals", removals.cast(REMOVAL_SCHEMA)) if rows else None,
                num_removed=len(rows),
            )
        )
    write_shard_table(artifact, shards)
    return artifact, shards
