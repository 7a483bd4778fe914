"""The mixture stage: writes an index over token shards that says how often each range of documents comes in training.

No token is copied. Ranges are grouped by source, language and class of lengths. A group that comes 2.3 times has each
of its ranges twice in the index, and then the first 0.3 of it. The documents of a range are ordered by a hash of their
content (`dataprep.tokenize.part`), so any beginning of it is a fair sample.

Shape letter: G groups.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.errors import InputError
from cluster.contracts.source_names import fits, short_names
from cluster.contracts.storage import relative_uri
from cluster.contracts.tokens import INDEX, ShardEntry, TokenShard, read_token_index, shard_directory, write_token_index
from dataprep.documents import written_file
from dataprep.mixture.config import MixtureConfig
from dataprep.sampling import epochs, temperature_factors

Group = tuple[str, str, int]  # the pattern of the source ("" for none), language, least length
_SHOWN_NAMES = 20  # of sources, in an error


def run(config: MixtureConfig, inputs: Mapping[str, Artifact], output: str, context: StageContext) -> StageResult:
    """Write the index. The metrics say how many tokens there are of each source, language and class of lengths.

    Raises `InputError` for shards of another tokenizer, weights that fit nothing, and a mixture without tokens.
    """
    tokenizer = inputs["tokenizer"].manifest.fingerprint
    artifacts = [artifact for role, artifact in inputs.items() if role != "tokenizer"]
    for artifact in artifacts:
        if artifact.manifest.inputs.get("tokenizer") != tokenizer:
            raise InputError(f"tokens: {artifact.uri} was not made with the tokenizer {inputs['tokenizer'].uri}")
    entries = [
        _moved(entry, artifact.uri, output) for artifact in artifacts for entry in read_token_index(artifact.uri)
    ]
    groups: dict[Group, list[ShardEntry]] = defaultdict(list)
    for entry in entries:
        if not entry.heldout:
            groups[_group(entry, config)].append(entry)
    _check_weights([entry for members in groups.values() for entry in members], config, context)
    often = group_epochs({group: sum(e.num_tokens for e in members) for group, members in groups.items()}, config)
    taken = [entry for group in sorted(groups) for entry in _taken(groups[group], often[group], output)]
    if not taken:
        raise InputError("the mixture is empty: every group has weight 0 or no tokens")
    heldout = [entry for entry in entries if entry.heldout]
    index = write_token_index(output, [*taken, *heldout])
    context.progress.update(1, 1, "index", tokens=sum(entry.num_tokens for entry in taken))
    metrics = {
        **tokens_of_what(taken, config),
        "heldout_tokens": sum(entry.num_tokens for entry in heldout),
        "epochs": {_name(group): round(often[group], 4) for group in sorted(groups)},
    }
    return StageResult(metrics, [written_file(INDEX, index)])


def _check_weights(entries: Sequence[ShardEntry], config: MixtureConfig, context: StageContext) -> None:
    """Raise `InputError` for a weight that fits no training document: misspelt, it would change nothing and go unseen.

    A weight of 0 that fits nothing is only noted, since it leaves out what may well not be there.
    """
    sources = {entry.source for entry in entries}
    languages, lengths = {entry.language for entry in entries}, {entry.min_length for entry in entries}
    fitting = {key for key in config.sources if any(fits(source, key) for source in sources)}
    problems = []
    for setting, weights, usable, there in (
        ("sources", config.sources, fitting, set(short_names(sources).values())),
        ("languages", config.languages, languages, languages),
        ("lengths", config.lengths, lengths, lengths),
    ):
        for key in (key for key, weight in weights.items() if not weight and key not in usable):
            context.progress.note(f"{setting}: {key} has weight 0, and fits no training document as it is")
        missing = [str(key) for key, weight in weights.items() if weight and key not in usable]
        if missing:
            names = sorted(str(key) for key in there if key != "")
            shown = ", ".join(names[:_SHOWN_NAMES]) or "none that is told apart"
            problems.append(f"{setting}: {', '.join(missing)} fits no training document (there is {shown})")
    if problems:
        raise InputError("; ".join(problems))


def group_epochs(tokens: Mapping[Group, int], config: MixtureConfig) -> dict[Group, float]:
    """Group -> how often it comes, from the tokens of each group and the settings."""
    groups = sorted(tokens)
    sizes_G = np.array([tokens[group] for group in groups], float)
    of_language: dict[str, float] = defaultdict(float)
    for (_, language, _), size in zip(groups, sizes_G, strict=True):
        of_language[language] += size
    factors = temperature_factors(np.array(list(of_language.values())), config.temperature)
    by_language = dict(zip(of_language, factors, strict=True))
    weights_G = np.array(
        [
            config.sources.get(source, 1.0) * config.languages.get(language, 1.0) * config.lengths.get(length, 1.0)
            * by_language[language]
            for source, language, length in groups
        ]
    )  # fmt: skip
    total = config.total_tokens or float(sizes_G[weights_G > 0].sum())
    found = epochs(sizes_G, weights_G, total=total, max_epochs=config.max_epochs)
    return dict(zip(groups, found.tolist(), strict=True))


def tokens_of_what(entries: Sequence[ShardEntry], config: MixtureConfig) -> dict[str, Any]:
    """The tokens of training rows: of all, and by source, by language and by class of lengths."""
    sums: dict[str, dict[str, int]] = {"by_source": {}, "by_language": {}, "by_min_length": {}}
    for entry in entries:
        source, language, length = _group(entry, config)
        for figure, name in (
            ("by_source", source or "other"),
            ("by_language", language),
            ("by_min_length", str(length)),
        ):
            sums[figure][name] = sums[figure].get(name, 0) + entry.num_tokens
    return {"tokens": sum(entry.num_tokens for entry in entries), **sums}


def _group(entry: ShardEntry, config: MixtureConfig) -> Group:
    pattern = next((pattern for pattern in config.sources if fits(entry.source, pattern)), "")
    return pattern, entry.language, entry.min_length


def _name(group: Group) -> str:
    source, language, length = group
    return f"{source or 'other'}/{language or 'und'}/{length}"


def _moved(entry: ShardEntry, artifact: str, output: str) -> ShardEntry:
    """The same range, with its directory as seen from the mixture's."""
    return replace(entry, directory=relative_uri(shard_directory(artifact, entry), base=output))


def _taken(entries: Sequence[ShardEntry], times: float, output: str) -> Iterator[ShardEntry]:
    """The rows of a group that comes so many `times`: each range as often as it comes whole, then beginnings of ranges.

    Beginnings are of whole documents; the tokens that one range falls short by are made up for by the next.
    """
    for _ in range(int(times)):
        yield from entries
    fraction = times - int(times)
    wanted = 0.0
    for entry in entries:
        wanted += fraction * entry.num_tokens
        if wanted < 1:
            continue
        shard = TokenShard(storage.join(shard_directory(output, entry), entry.name))
        ends = shard.part(entry.first_document, entry.num_documents).offsets[1:]
        count = int(np.searchsorted(ends, wanted, side="right"))
        if count:
            wanted -= int(ends[count - 1])
            yield replace(entry, num_documents=count, num_tokens=int(ends[count - 1]))
