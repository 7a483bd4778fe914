"""Opens what pre-training reads: the training samples in their order, and the held-out documents of each source.

`check_data` refuses, before a worker starts, a token store that can't be trained on or is of another tokenizer.
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact
from cluster.contracts.errors import InputError
from cluster.contracts.progress import Progress, SilentProgress
from cluster.contracts.source_names import short_names
from cluster.contracts.tokens import ShardEntry, TokenShard, read_token_index, shard_uris
from training.data.packing import STRIPES, WINDOW_SAMPLES, BestFitSampler, PackingWindows, window_sizes
from training.data.sample_order import WindowedOrder
from training.data.sampler import Sampler, TokenSampler
from training.data.shard_cache import ShardCache, check_budget, default_directory
from training.data.token_stream import StoredTokens, TokenStream
from training.pretrain.config import PretrainConfig
from training.pretrain.job import PretrainJob

MOST_SOURCES = 8  # of held-out documents that are told apart, those with most tokens; the rest are `OTHER`
OTHER = "other"  # in brackets if one of them is called that
_CACHES: WeakValueDictionary[tuple[Path, int | None], ShardCache] = WeakValueDictionary()
_SILENT = SilentProgress()
_SHOWN_SOURCES = 100  # in the record of what was trained on; those with most tokens


def open_training(job: PretrainJob, progress: Progress = _SILENT) -> Sampler:
    """The training samples in their order.

    Local shards are mapped when they are read. Remote ones are copied to this machine: all of them at once, or where
    the order goes by windows, those of the window at hand and of the next as they come up.
    """
    config = job.config
    cache = shard_cache(config)
    by_window = config.shuffle == "windows"
    entries = [entry for entry in read_token_index(job.tokens_uri) if not entry.heldout]
    stream = StoredTokens(job.tokens_uri, entries, random_reads=not by_window, localise=cache.localise)
    if not by_window:
        cache.fetch_all(stream.shards([(0, stream.num_tokens)]), progress)
    apart = config.attention == "within_documents"
    sampler: Sampler
    if config.packing == "best_fit":
        windows, sizes_W = packing_windows(job, stream, progress)
        sampler = BestFitSampler(stream, config.sequence_length, windows, sizes_W, documents_apart=apart)
    else:
        sampler = TokenSampler(stream, config.sequence_length, None, documents_apart=apart)
    if by_window:
        sampler.shuffle_windows(job.seed, window_samples=config.shuffle_window)
    else:
        sampler.shuffle(job.seed)
    sampler.announce = lambda spans: cache.fetch_ahead(stream.shards(spans))
    return sampler


def open_heldout(job: PretrainJob, progress: Progress = _SILENT) -> dict[str, Sampler]:
    """The held-out documents of each source, by its name, most tokens first. Empty where none is held out.

    They are always cut end to end, so that their loss compares between packings.
    """
    config = job.config
    cache = shard_cache(config)
    grouped: dict[str, list[ShardEntry]] = defaultdict(list)
    index = read_token_index(job.tokens_uri)
    names = short_names(entry.source for entry in index)
    for entry in index:
        if entry.heldout:
            grouped[names[entry.source]].append(entry)
    by_size = sorted(grouped, key=lambda source: (-sum(entry.num_tokens for entry in grouped[source]), source))
    told_apart = {source: grouped[source] for source in by_size[:MOST_SOURCES]}
    rest = [entry for source in by_size[MOST_SOURCES:] for entry in grouped[source]]
    if rest:
        name = OTHER
        while name in told_apart:
            name = f"({name})"
        told_apart[name] = rest
    samplers: dict[str, Sampler] = {}
    for source, entries in told_apart.items():
        stream = StoredTokens(job.tokens_uri, entries, random_reads=False, localise=cache.localise)
        if stream.num_tokens < 2:
            continue
        cache.fetch_all(stream.shards([(0, stream.num_tokens)]), progress)
        apart = config.attention == "within_documents"
        samplers[source] = TokenSampler(stream, config.sequence_length, None, documents_apart=apart)
    return samplers


def packing_windows(
    job: PretrainJob, stream: TokenStream, progress: Progress
) -> tuple[PackingWindows, npt.NDArray[np.int64]]:
    """The windows of best-fit packing and how many samples each makes: found once, and kept in the output."""
    config = job.config
    region = config.shuffle_window if config.shuffle == "windows" else None
    windows = PackingWindows(stream.num_tokens, config.sequence_length, region_samples=region)
    kept = storage.join(job.output, f"packing-{WINDOW_SAMPLES}x{STRIPES}.npy")
    try:
        sizes_W = np.load(io.BytesIO(storage.read_bytes(kept)), allow_pickle=False)
    except FileNotFoundError:
        count = windows.num_windows
        sizes_W = window_sizes(
            stream,
            config.sequence_length,
            windows,
            on_window=lambda window: progress.update(window + 1, count, "windows"),
        )
        content = io.BytesIO()
        np.save(content, sizes_W)
        storage.write_bytes(kept, content.getvalue())
    return windows, sizes_W


def shard_cache(config: PretrainConfig) -> ShardCache:
    """The place where this machine keeps copies of remote shards.

    All users in this process share one `ShardCache`. It knows which copies must stay: held-out shards must not make
    room for training ones.
    """
    directory = Path(config.data_cache) if config.data_cache is not None else default_directory()
    budget_bytes = cache_bytes(config)
    cache = _CACHES.get((directory, budget_bytes))
    if cache is None:
        cache = _CACHES[directory, budget_bytes] = ShardCache(directory, budget_bytes=budget_bytes)
    return cache


def cache_bytes(config: PretrainConfig) -> int | None:
    """Most bytes that those copies may take together. None: no limit."""
    return None if config.data_cache_gib is None else int(config.data_cache_gib * 2**30)


def tokens_of_what(job: PretrainJob, sampler: Sampler, num_tokens: int) -> dict[str, dict[str, int]]:
    """About how many of the first `num_tokens` trained on are of each source, language and length class.

    This is computed from the index alone. A row's share in what was trained on is taken to be its share in the store;
    where the order goes by windows and the last epoch was not finished, its share in the windows visited. `sampler` is
    that of `open_training`.
    """
    index = read_token_index(job.tokens_uri)
    names = short_names(entry.source for entry in index)
    entries = [entry for entry in index if not entry.heldout]
    lengths_R = np.array([entry.num_tokens for entry in entries], np.float64)
    epochs, samples = divmod(-(-num_tokens // sampler.sequence_length), sampler.num_samples)
    if job.config.shuffle == "windows":
        order = WindowedOrder(sampler.window_begins(job.config.shuffle_window), job.seed)
        weights_R = epochs * lengths_R + _tokens_visited(sampler, order, epochs, samples, lengths_R)
    else:
        weights_R = lengths_R
    weights_R *= num_tokens / weights_R.sum()
    found: dict[str, defaultdict[str, float]] = {
        figure: defaultdict(float) for figure in ("source", "language", "min_length")
    }
    for entry, weight in zip(entries, weights_R.tolist(), strict=True):
        for figure, counts in found.items():
            counts[names[entry.source] if figure == "source" else str(getattr(entry, figure))] += weight
    return {
        figure: {name: round(count) for name, count in Counter(counts).most_common(_SHOWN_SOURCES) if round(count) > 0}
        for figure, counts in found.items()
    }


def _tokens_visited(
    sampler: Sampler, order: WindowedOrder, epoch: int, num_samples: int, lengths_R: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """[R] tokens of each row in the first `num_samples` of an epoch; the last window is counted in proportion."""
    ends_R = np.cumsum(lengths_R)
    begins_R = ends_R - lengths_R
    visited_R = np.zeros_like(lengths_R)
    turn = 0
    while num_samples > 0:
        first, last = order.samples_of_turn(epoch, turn)
        fraction = min(1.0, num_samples / (last - first))
        for start, stop in sampler.positions_of(first, last):
            rows = slice(int(ends_R.searchsorted(start, side="right")), int(begins_R.searchsorted(stop)))
            visited_R[rows] += fraction * (np.minimum(ends_R[rows], stop) - np.maximum(begins_R[rows], start))
        num_samples, turn = num_samples - (last - first), turn + 1
    return visited_R


def check_data(job: PretrainJob, tokens: Artifact, tokenizer: Artifact, tokenizer_size: int) -> None:
    """Raise `InputError` unless there is something to train on, in the ids of this tokenizer.

    The shards' manifest tells which tokenizer made them, and no shard is opened; shards from elsewhere are scanned
    for ids out of range. Raises `CorruptArtifact` for shards that are not of the size in their index.
    """
    entries = read_token_index(job.tokens_uri)
    uris = shard_uris(job.tokens_uri, entries)
    num_tokens = sum(entry.num_tokens for entry in entries if not entry.heldout)
    if num_tokens < 2:
        raise InputError(f"{job.tokens_uri} has {num_tokens} tokens to train on (held-out shards apart)")
    heldout_tokens = Counter[str]()
    for entry in entries:
        heldout_tokens[entry.source] += entry.num_tokens * entry.heldout
    if job.config.keep_best and max(heldout_tokens.values(), default=0) < 2:
        raise InputError(
            f"keep_best keeps checkpoints of the lowest held-out loss, and {job.tokens_uri} has no held-out tokens; "
            "make some (tokenize's heldout_fraction), or leave keep_best out"
        )
    window = job.config.shuffle_window * job.config.sequence_length if job.config.shuffle == "windows" else None
    check_budget(entries, uris, budget_bytes=cache_bytes(job.config), window_tokens=window)
    made_with = tokens.manifest.inputs.get("tokenizer")
    if made_with is not None:
        if made_with != tokenizer.manifest.fingerprint:
            raise InputError(
                f"the shards of {tokens.uri} were made with tokenizer {made_with}, and {tokenizer.uri} is "
                f"{tokenizer.manifest.fingerprint}; give that tokenizer, or tokenise again with this one"
            )
    else:
        check_ids(uris, tokenizer, tokenizer_size)
    if job.config.packing == "best_fit" and all(storage.is_local(uri) for uri in uris):
        # Once, by Ray's driver, instead of by every rank; a remote store's shards come to the ranks' machines first.
        train_entries = [entry for entry in entries if not entry.heldout]
        packing_windows(job, StoredTokens(job.tokens_uri, train_entries, random_reads=False), SilentProgress())


def check_ids(uris: Iterable[str], tokenizer: Artifact, tokenizer_size: int) -> None:
    """Raise `InputError` where a shard holds an id that the tokenizer does not have. Reads all of them."""
    for uri in dict.fromkeys(uris):
        largest = int(TokenShard(uri).tokens_T.max(initial=0))
        if largest >= tokenizer_size:
            raise InputError(
                f"{uri} holds token id {largest}, and the tokenizer {tokenizer.uri} has {tokenizer_size} "
                "tokens; give the tokenizer that made the shards"
            )
