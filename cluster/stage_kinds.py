"""Which kinds of stages there are: the list of their records, each declared in its own folder.

The order is that of the pipeline. Where a choice has to be made among the stages of a run, the last in this order
wins: `raymill serve` takes the most aligned model, `raymill inspect` the corpus from which most has been removed.

Packages beside Raymill add kinds of their own by an entry point of the group `raymill.stage_kinds`:

    [project.entry-points."raymill.stage_kinds"]
    word_count = "my_package.word_count.kind:WORD_COUNT"

Importing this costs the settings' models only, since `raymill plan` loads it; a stage's code is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points

from cluster.contracts.stage_kind import StageKind, load

ENTRY_POINTS = "raymill.stage_kinds"

_KINDS = (
    "dataprep.clean.kind:CLEAN",
    "dataprep.quality_classifier.kind:QUALITY_CLASSIFIER",
    "dataprep.repeated_lines.kind:REPEATED_LINES",
    "dataprep.dedupe.kind:DEDUPE",
    "dataprep.tokenizer.kind:TOKENIZER",
    "dataprep.tokenize.kind:TOKENIZE",
    "dataprep.mixture.kind:MIXTURE",
    "training.pretrain.kind:PRETRAIN",
    "training.conversations.kind:CONVERSATIONS",
    "training.candidates.kind:CANDIDATES",
    "training.preferences.kind:PREFERENCES",
    "training.post_training.kind:SFT",
    "training.post_training.kind:REWARD_MODEL",
    "training.post_training.kind:DPO",
    "training.post_training.kind:KTO",
    "training.online.kind:PPO",
    "training.evaluate.kind:EVALUATE",
)

BROKEN_KINDS: dict[str, str] = {}
"""Entry point -> why the kind that another package declares is not among `STAGE_KINDS`."""


def _installed(taken: set[str]) -> Iterator[StageKind]:
    """The kinds of other packages; what is wrong with one of them goes into `BROKEN_KINDS`."""
    for point in entry_points(group=ENTRY_POINTS):
        try:
            kind = point.load()
        except Exception as error:  # whatever a foreign module raises must not keep `raymill` from starting
            BROKEN_KINDS[point.name] = f"{point.value} can't be imported: {type(error).__name__}: {error}"
            continue
        if not isinstance(kind, StageKind):
            BROKEN_KINDS[point.name] = f"{point.value} is no StageKind but {type(kind).__name__}"
        elif kind.name in taken:
            BROKEN_KINDS[point.name] = f"{point.value} is named {kind.name!r}, as another kind is"
        else:
            taken.add(kind.name)
            yield kind


def _all_kinds() -> Iterator[StageKind]:
    own: list[StageKind] = [load(target) for target in _KINDS]
    yield from own
    yield from _installed({kind.name for kind in own})


STAGE_KINDS: dict[str, StageKind] = {kind.name: kind for kind in _all_kinds()}


def kinds_of_models(role: str) -> tuple[str, ...]:
    """The kinds whose artifact is served as "policy" or "reward", the last of the pipeline first."""
    return tuple(kind.name for kind in reversed(STAGE_KINDS.values()) if kind.model == role)


def kinds_of_corpora() -> tuple[str, ...]:
    """The kinds whose artifact is a corpus of documents, the last of the pipeline first."""
    return tuple(kind.name for kind in reversed(STAGE_KINDS.values()) if kind.is_corpus)
