"""What runs in the peer's interpreter: datatrove's own blocks, without anything of ours. `python peer.py JOB.json`.

The job names a command, its inputs and the file for the result. datatrove's language identification wants a URL, so
its class is given the model file instead; all else is used as it comes.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LanguageFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.lid import FT176LID
from fasttext.FastText import _FastText

MINHASH = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
FAMILIES = {
    "gopher_repetition": GopherRepetitionFilter,
    "gopher_quality": GopherQualityFilter,
    "c4": lambda: C4QualityFilter(filter_no_terminal_punct=False),
    "fineweb": FineWebQualityFilter,
}


class LocalModel(FT176LID):
    """Language identification from a model file at hand."""

    def __init__(self, path: str, languages: list[str]) -> None:
        super().__init__(languages)
        self._path = path

    @property
    def model(self):
        if self._model is None:
            self._model = _FastText(self._path)
        return self._model

    def __getstate__(self):
        return {**self.__dict__, "_model": None}


def language_filter(job: dict) -> LanguageFilter:
    """English with a confidence of 0.65 or more."""
    block = LanguageFilter(languages=["en"], language_threshold=0.65)
    block.model = LocalModel(job["language_model"], ["en"])
    return block


def read(job: dict) -> list[Document]:
    """All documents, in memory."""
    rows = (json.loads(line) for path in job["documents"] for line in Path(path).read_bytes().splitlines())
    return [Document(text=row["text"], id=row["id"]) for row in rows]


def clean_and_sign(job: dict) -> dict:
    """CPU seconds of the filters and signatures, chained as a pipeline chains them: bar 1."""
    documents = read(job)
    signature = MinhashDedupSignature(f"{job['scratch']}/clean-signatures", config=MINHASH)
    blocks = [language_filter(job), *(make() for make in FAMILIES.values())]
    warm = [Document(text=d.text, id=d.id) for d in documents[:20]]  # loads models and tokenizers
    for block in blocks:
        warm = block.run(warm)
    signature.run(warm, 0, 1)
    started = time.process_time()
    stream = iter(documents)
    for block in blocks:
        stream = block.run(stream)
    kept = []
    signature.run(_recorded(stream, kept), 0, 1)
    return {"cpu_s": time.process_time() - started, "documents": len(documents), "kept": len(kept)}


def _recorded(stream, kept):
    for document in stream:
        kept.append(document.id)
        yield document


def decisions(job: dict) -> dict:
    """Each family's decision on every document, by itself: bar 4."""
    documents = read(job)
    found = {}
    for family, make in FAMILIES.items():
        block = make()
        answers = (block.filter(Document(text=d.text, id=d.id)) for d in documents)
        found[family] = ["" if answer is True else answer[1] for answer in answers]
    return {"decisions": found}


def near_duplicates(job: dict) -> dict:
    """The ids that MinHash deduplication keeps of all documents, without any filter: bar 5."""
    scratch = Path(job["scratch"]) / "near-duplicates"
    started = time.process_time()
    documents = read(job)
    MinhashDedupSignature(str(scratch / "signatures"), config=MINHASH).run(documents, 0, 1)
    _buckets_and_clusters(scratch)
    kept = [document.id for document in MinhashDedupFilter(str(scratch / "remove")).run(documents, 0, 1)]
    return {"kept": kept, "cpu_s": time.process_time() - started}


def _buckets_and_clusters(scratch: Path) -> None:
    buckets = MinhashDedupBuckets(str(scratch / "signatures"), str(scratch / "buckets"), config=MINHASH)
    for rank in range(MINHASH.num_buckets):
        buckets.run(None, rank, MINHASH.num_buckets)
    MinhashDedupCluster(str(scratch / "buckets"), str(scratch / "remove"), config=MINHASH).run(None, 0, 1)


def pipeline(job: dict) -> dict:
    """JSON Lines to tokenised, deduplicated shards, one task per input file, in this process: bar 2."""
    scratch, source = Path(job["scratch"]) / "pipeline", str(Path(job["documents"][0]).parent)
    tasks = len(job["documents"])
    started = _cpu_seconds()

    def run(name: str, blocks: list, count: int = tasks) -> None:
        log = str(scratch / "logs" / name)
        LocalPipelineExecutor(pipeline=blocks, tasks=count, workers=1, logging_dir=log).run()

    def filtered() -> JsonlReader:
        return JsonlReader(str(scratch / "filtered"), glob_pattern="*.jsonl")

    def written(name: str) -> JsonlWriter:
        return JsonlWriter(str(scratch / name), compression=None)

    families = [make() for make in FAMILIES.values()]
    run("filters", [JsonlReader(source, glob_pattern="*.jsonl"), language_filter(job), *families, written("filtered")])
    run("signatures", [filtered(), MinhashDedupSignature(str(scratch / "signatures"), config=MINHASH)])
    _buckets_and_clusters(scratch)
    run("dedupe", [filtered(), MinhashDedupFilter(str(scratch / "remove")), written("deduplicated")])
    tokenizer = DocumentTokenizer(
        str(scratch / "tokens"),
        local_working_dir=str(scratch / "tokens-local"),
        tokenizer_name_or_path=job["tokenizer"],
        eos_token="<|endoftext|>",
        save_filename="shard",
        seed=0,
    )
    run("tokenise", [JsonlReader(str(scratch / "deduplicated"), glob_pattern="*.jsonl"), tokenizer])
    return {"cpu_s": _cpu_seconds() - started}


def _cpu_seconds() -> float:
    """User and system time of this process and of those that it started and waited for."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


COMMANDS = {
    "clean_and_sign": clean_and_sign,
    "decisions": decisions,
    "near_duplicates": near_duplicates,
    "pipeline": pipeline,
}


def main() -> None:
    """Do the job named on the command line."""
    job = json.loads(Path(sys.argv[1]).read_text())
    Path(job["result"]).write_text(json.dumps(COMMANDS[job["command"]](job)))


if __name__ == "__main__":
    main()
