"""The preferences stage: feedback out of files, and pairs made of conversations, in one artifact.

Rows of files are read and checked (`training/feedback/reading.py`), brought together by prompt where they hold scores
(`scales.py`), and split by prompt (`splitting.py`). Pairs made of conversations (`made_pairs.py`) are on the side that
their conversation is on, and sampled answers that a reward model scored (`scored_candidates.py`) on their prompt's. No
prompt that a held-out row begins with is asked in a training row, whatever they came from.

Rows read from files = training + held out + dropped by reason + quarantined, but that scores of one prompt become one
row. The artifact is that of `training/feedback/artifact.py`; its pairs and labels stand beside it in TRL's format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.commit import WrittenFile
from cluster.contracts.errors import InputError
from training.candidates.artifact import read_candidates
from training.conversations.artifact import read_conversations
from training.export import write_file
from training.feedback.artifact import DROPPED_FILE, FILES, dropped_parquet, rows_parquet
from training.feedback.conversions import PairRule, to_labels, to_pairs
from training.feedback.exports import labels_jsonl, pairs_jsonl
from training.feedback.prompts import normalised
from training.feedback.reading import QUARANTINE_FILE, QuarantinedRow, quarantined_parquet, read_feedback
from training.feedback.rows import FeedbackRow
from training.feedback.scales import grouped_scores, observed_ranges, with_ranges
from training.feedback.splitting import FeedbackSplit, first_asked, split_feedback, without_prompts
from training.launch.workers import Launcher, no_checkpoints, run_workers
from training.preferences.config import PreferencesConfig
from training.preferences.made_pairs import build_pairs, build_text_pairs
from training.preferences.scored_candidates import ScoringJob, score_candidates, scored_rows


@dataclass
class _Found:
    """What the sources gave."""

    split: FeedbackSplit = field(default_factory=FeedbackSplit)
    quarantined: list[QuarantinedRow] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def run(
    config: PreferencesConfig,
    inputs: Mapping[str, Artifact],
    output: str,
    context: StageContext,
    *,
    launch: Launcher = run_workers,
) -> StageResult:
    """Write both sides of the split, the rows left out and those that were no feedback.

    Ray is needed for `candidates` alone, which workers score; with `launch=run_in_process` not even for these. Raises
    `InputError` where no row of a source is feedback, or a side of the split is empty.
    """
    own = _of_files(config, inputs) if config.inputs is not None else _Found()
    made = _of_conversations(config, inputs["conversations"].uri) if config.conversations is not None else _Found()
    sampled = _of_candidates(config, inputs, context, launch) if config.candidates is not None else _Found()
    sources = (made, own, sampled)
    heldout = [row for source in sources for row in source.split.heldout]
    train, leaking = without_prompts(
        (row for source in sources for row in source.split.train), {first_asked(row) for row in heldout}
    )
    dropped = [*own.split.dropped, *((row, "asks_a_heldout_prompt") for row in leaking)]
    if not any(not row.get("reward_model_only", False) for row in train) or not heldout:
        raise InputError(_too_few(config, len(train), len(heldout), own.counts | made.counts, dropped))
    quarantined = [*own.quarantined, *made.quarantined]
    rule = PairRule(config.pairs_of_a_prompt, config.min_score_difference)
    files = [
        write_file(output, FILES["train"], rows_parquet(train, "train", rule)),
        write_file(output, FILES["heldout"], rows_parquet(heldout, "heldout", rule)),
        write_file(output, DROPPED_FILE, dropped_parquet(dropped)),
        write_file(output, QUARANTINE_FILE, quarantined_parquet(quarantined)),
    ]
    metrics: dict[str, object] = {**own.counts, **made.counts, **sampled.counts}
    for side, rows in (("train", train), ("heldout", heldout)):
        written, counts = _for_trl(output, side, [row for row in rows if not row.get("reward_model_only", False)], rule)
        files += written
        metrics |= counts
    metrics |= {
        "num_train_rows": len(train),
        "num_heldout_rows": len(heldout),
        "num_train_prompts": len({first_asked(row) for row in train}),
        "num_heldout_prompts": len({first_asked(row) for row in heldout}),
        "train_rows_by_kind": dict(sorted(Counter(row["kind"] for row in train).items())),
        "heldout_rows_by_kind": dict(sorted(Counter(row["kind"] for row in heldout).items())),
        "num_dropped": len(dropped),
        **{f"num_dropped_{reason}": count for reason, count in sorted(Counter(r for _, r in dropped).items())},
        "num_quarantined": len(quarantined),
        "quarantined_by_reason": dict(sorted(Counter(row.reason for row in quarantined).items())),
    }
    num_rows = len(train) + len(heldout) + len(dropped) + len(quarantined)
    context.progress.update(num_rows, num_rows, "rows")
    return StageResult(metrics, files)


def _of_files(config: PreferencesConfig, inputs: Mapping[str, Artifact]) -> _Found:
    """The rows of `inputs` and `heldout_inputs`, split."""
    read, quarantined = read_feedback(config.inputs or (), config)
    held: list[FeedbackRow] = []
    if config.heldout_inputs is not None:
        held, more = read_feedback(config.heldout_inputs, config)
        quarantined += more
    counts = {"num_rows": len(read) + len(held) + len(quarantined)}
    prompts: set[str] = set()
    if config.heldout_prompts_of is not None:
        prompts = _heldout_prompts(inputs["heldout_prompts_of"].uri)
    split = split_feedback(
        grouped_scores(read),
        heldout_rows=grouped_scores(held),
        fraction=config.share_held_out,
        seed=config.split_seed,
        heldout_prompts=prompts,
        deduplicate=config.deduplicate,
    )
    ranges = observed_ranges(split.train)
    train, heldout = (with_ranges(rows, ranges) for rows in (split.train, split.heldout))
    return _Found(FeedbackSplit(train, heldout, split.dropped), quarantined, counts)


def _of_conversations(config: PreferencesConfig, uri: str) -> _Found:
    """Pairs made of both sides of the conversations at `uri`, and those of sentences behind them."""
    sets = build_pairs(read_conversations(uri, "train"), read_conversations(uri, "heldout"), config)
    text_pairs, quarantined = build_text_pairs(config)
    split = FeedbackSplit([*sets.train, *text_pairs], [*sets.heldout])
    return _Found(split, quarantined, {**sets.counts, "num_text_pairs": len(text_pairs)})


def _of_candidates(
    config: PreferencesConfig, inputs: Mapping[str, Artifact], context: StageContext, launch: Launcher
) -> _Found:
    """The candidates with their rewards, prompt by prompt; the scale is that of the training answers' rewards."""
    uri = inputs["candidates"].uri
    context.progress.note("scoring the candidates")
    job = ScoringJob(uri, inputs["scored_by"].uri, config.scoring_batch_size)
    rewards = launch(score_candidates, job, config.scorers, context, committed_steps=no_checkpoints)
    split, counts = scored_rows(read_candidates(uri), rewards, scored_by=config.scored_by or "")
    ranges = observed_ranges(split.train)
    return _Found(FeedbackSplit(with_ranges(split.train, ranges), with_ranges(split.heldout, ranges)), counts=counts)


def _heldout_prompts(uri: str) -> set[str]:
    """What the conversations that the artifact at `uri` holds out ask first."""
    found = (
        next((m["content"] for m in conversation["messages"] if m["role"] == "user"), None)
        for conversation in read_conversations(uri, "heldout")
    )
    return {normalised(prompt) for prompt in found if prompt is not None}


def _for_trl(
    output: str, side: str, rows: Sequence[FeedbackRow], rule: PairRule
) -> tuple[list[WrittenFile], dict[str, int]]:
    """Write what TRL's trainers take, and count the pairs by the kinds of rows that they are made of."""
    pairs, by_kind = to_pairs(rows, rule)
    files = [write_file(output, f"{side}_pairs.jsonl", pairs_jsonl(pairs))]
    counts = {f"num_{side}_pairs": len(pairs)}
    if set(by_kind) - {"pair"}:
        counts |= {f"num_{side}_pairs_from_{kind}": count for kind, count in sorted(by_kind.items())}
    if any(row["kind"] == "label" for row in rows):
        labels, _ = to_labels(rows)
        files.append(write_file(output, f"{side}_labels.jsonl", labels_jsonl(labels)))
        counts[f"num_{side}_labels"] = len(labels)
    return files, counts


def _too_few(
    config: PreferencesConfig,
    num_train: int,
    num_heldout: int,
    counts: Mapping[str, int],
    dropped: Sequence[tuple[FeedbackRow, str]],
) -> str:
    found = f"there are {num_train} training and {num_heldout} held-out rows, and both sides need some"
    if config.inputs is not None:
        return (
            f"{found}: of {counts['num_rows']} rows read, {len(dropped)} were dropped; change heldout_fraction "
            f"({config.share_held_out}), or give heldout_inputs"
        )
    if config.conversations is None:
        return f"{found}: give the candidates stage prompts of both sides (split: both), and several answers to each"
    return (
        f"{found}: {counts['num_conversations']} conversations give too few pairs; lower min_words "
        f"({config.min_words}), or change the conversations stage's heldout_fraction"
    )
