"""The candidates stage: every model answers every prompt several times, part by part.

A part is one model's answers to `prompts_per_part` prompts. It is asked for in one call and committed whole, so a run
that is killed goes on with the parts that are left. An answer's seed follows from the spec's seed, its prompt, its
model's name and its number: it is the same in every run, whichever other prompts and models there are.

Prompts of a model = answered + quarantined, for each model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.chat.encoder import ChatEncoder
from cluster.contracts.chat.rendering import ChatRefused
from cluster.contracts.commit import CommittedPart, commit_part, committed_parts, sweep
from cluster.contracts.errors import InputError, StageFailed
from cluster.contracts.hashing import derived_seed
from cluster.contracts.records import AnswerClient, GenerateRequest, Quarantined, Rollout, SamplingParams
from training.candidates.artifact import ANSWERS, Candidate, CandidatePrompt, candidates_parquet
from training.candidates.config import CandidatesConfig
from training.conversations.artifact import Split, read_located_conversations, read_located_prompts
from training.conversations.prompts import Prompt, distinct_prompts, spread_over
from training.conversations.reading import QUARANTINE_FILE, quarantine_parquet
from training.export import write_file
from training.models import load_config, longest_sequence
from training.tokenizers import load_tokenizer


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt on its side of the split, as one model's tokens."""

    prompt: Prompt
    split: Split
    ids: list[int]


def run(
    config: CandidatesConfig,
    inputs: Mapping[str, Artifact],
    output: str,
    context: StageContext,
    client: AnswerClient,
) -> StageResult:
    """Write the answers of all models, and the prompts that a model could not be asked.

    Raises `InputError` where there is no prompt, or a model can be asked none.
    """
    prompts = read_prompts(config, inputs["conversations"].uri)
    sweep(output)
    done = committed_parts(output)
    quarantined: list[Quarantined] = []
    keys: list[str] = []
    num_prompts: dict[str, int] = {}
    for place, name in enumerate(config.models):
        model = inputs[f"models.{name}"]
        with storage.local_copy(model.uri, context.scratch) as local:
            encoder = ChatEncoder(load_tokenizer(local))
            positions = longest_sequence(load_config(local))
        asked, refused = encode_prompts(config, name, encoder, prompts, positions - config.max_new_tokens)
        check_room(config, name, asked, client.max_model_len(model.uri))
        quarantined += refused
        num_prompts[name] = len(asked)
        parts = {
            f"{name}.{start // config.prompts_per_part:06}": asked[start : start + config.prompts_per_part]
            for start in range(0, len(asked), config.prompts_per_part)
        }
        keys += parts
        answering = _Answering(config, name, model, encoder, client, context.seed)
        todo = {key: part for key, part in parts.items() if key not in done}
        num_done, total = place * len(parts) + len(parts) - len(todo), len(config.models) * len(parts)
        # Not as a context: an interrupt would wait there for the parts under way.
        pool = ThreadPoolExecutor(max_workers=config.server.num_replicas)
        try:
            futures = [pool.submit(answering.commit, output, key, part) for key, part in todo.items()]
            for count, future in enumerate(as_completed(futures), 1):
                future.result()
                context.progress.update(num_done + count, total, "parts", model=name)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    committed = committed_parts(output)
    answered = [committed[key] for key in keys]
    files = [part.files[ANSWERS] for part in answered]
    files.append(write_file(output, QUARANTINE_FILE, quarantine_parquet(quarantined)))
    return StageResult(_metrics(answered, num_prompts, len(prompts), quarantined), files)


def read_prompts(config: CandidatesConfig, uri: str) -> list[tuple[Prompt, Split]]:
    """The prompts of the sides asked for. Raises `InputError` where there is none."""
    sides: tuple[Split, ...] = ("train", "heldout") if config.split == "both" else (config.split,)
    found: list[tuple[Prompt, Split]] = []
    for side in sides:
        rows = [*read_located_conversations(uri, side), *read_located_prompts(uri, side)]
        prompts = distinct_prompts(rows, config.turns)
        found += [(prompt, side) for prompt in spread_over(prompts, config.num_prompts)]
    if not found:
        raise InputError(f"{uri} has no prompt on the side {config.split!r} of its split")
    return found


def encode_prompts(
    config: CandidatesConfig,
    name: str,
    encoder: ChatEncoder,
    prompts: Sequence[tuple[Prompt, Split]],
    longest: int,
) -> tuple[list[AskedPrompt], list[Quarantined]]:
    """(prompts that the model `name` can be asked, those that it can't be asked); `longest` is what its positions hold.

    Raises `InputError` where it can be asked none.
    """
    if config.max_prompt_tokens is not None:
        longest = min(longest, config.max_prompt_tokens)
    asked: list[AskedPrompt] = []
    refused: list[Quarantined] = []
    encoded = encoder.encode_prompts((prompt.messages, prompt.tools) for prompt, _ in prompts)
    for (prompt, split), ids in zip(prompts, encoded, strict=True):
        if isinstance(ids, ChatRefused):
            refused.append(Quarantined(prompt.uri, prompt.offset, ids.reason, f"model {name}: {ids}"))
        elif len(ids) > longest:
            detail = f"model {name}: {len(ids)} tokens, at most {longest}"
            refused.append(Quarantined(prompt.uri, prompt.offset, "prompt_too_long", detail))
        else:
            asked.append(AskedPrompt(prompt, split, ids))
    if not asked:
        raise InputError(
            f"model {name!r} can be asked none of {len(prompts)} prompts (for the first: {refused[0].detail}); "
            "max_new_tokens and the longest prompt must fit into the model's positions together"
        )
    return asked, refused


def check_room(config: CandidatesConfig, name: str, asked: Sequence[AskedPrompt], room: int) -> None:
    """Raise `InputError` where a server whose cache has `room` tokens can't take one of the prompts and its answer.

    They are not quarantined, since what is asked, and with it which prompts a part holds, must not depend on a server.
    """
    needed = max(len(prompt.ids) for prompt in asked) + config.max_new_tokens
    if needed > room:
        raise InputError(
            f"the longest prompt for model {name!r} and its answer have {needed} tokens together, and its server takes "
            f"{room}; raise server.max_batch_tokens ({config.server.max_batch_tokens}), or set max_prompt_tokens"
        )


@dataclass(frozen=True)
class _Answering:
    """One model, ready to answer parts."""

    config: CandidatesConfig
    name: str
    model: Artifact
    encoder: ChatEncoder
    client: AnswerClient
    seed: int

    def commit(self, output: str, key: str, asked: Sequence[AskedPrompt]) -> None:
        """Have the model answer the prompts of a part, and commit the answers with their counts."""
        numbered = [(prompt, number) for prompt in asked for number in range(self.config.answers_per_prompt)]
        requests = [
            GenerateRequest(prompt.ids, self._sampling(prompt.prompt.id, number)) for prompt, number in numbered
        ]
        rollouts = self.client.generate(self.model.uri, requests)
        if [list(r.prompt_ids_P) for r in rollouts] != [list(request.prompt_ids) for request in requests]:
            raise StageFailed("the servers' answers do not belong to the prompts that were sent, in their order")
        rows = [
            (_candidate_prompt(prompt), self._candidate(number, request, rollout))
            for (prompt, number), request, rollout in zip(numbered, requests, rollouts, strict=True)
        ]
        with commit_part(output, key) as part:
            with part.open(ANSWERS, "answers.parquet") as sink:
                sink.write(candidates_parquet(rows))
            part.metrics.update(
                num_answers=len(rows),
                num_finished=sum(candidate.finish_reason == "stop" for _, candidate in rows),
                num_distinct=len({(prompt.prompt_id, candidate.answer) for prompt, candidate in rows}),
                num_tokens=sum(len(candidate.answer_ids) for _, candidate in rows),
                logprob=sum(candidate.logprob for _, candidate in rows),
            )

    def _sampling(self, prompt_id: str, number: int) -> SamplingParams:
        config = self.config
        return SamplingParams(
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            stop_token_ids=self.encoder.stop_token_ids,
            seed=derived_seed("candidates", self.seed, self.name, prompt_id, number),
        )

    def _candidate(self, number: int, request: GenerateRequest, rollout: Rollout) -> Candidate:
        ids = rollout.answer_ids_A.tolist()
        versions = set(rollout.versions_A.tolist())
        if len(versions) != 1:
            raise StageFailed(f"an answer of {self.name!r} was made by several versions of its weights: {versions}")
        return Candidate(
            model=self.name,
            model_fingerprint=self.model.manifest.fingerprint,
            weight_version=versions.pop(),
            number=number,
            answer=self.encoder.tokenizer.decode(ids, skip_special_tokens=True),
            answer_ids=ids,
            num_prompt_tokens=len(request.prompt_ids),
            logprob=float(rollout.logprobs_A.sum(dtype=np.float64)),
            token_logprobs=rollout.logprobs_A.tolist(),
            finish_reason=rollout.finish_reason,
            sampling=replace(request.sampling, stop_token_ids=()),
        )


def _candidate_prompt(asked: AskedPrompt) -> CandidatePrompt:
    prompt = asked.prompt
    return CandidatePrompt(
        prompt_id=prompt.id,
        messages=list(prompt.messages),
        split=asked.split,
        tools=prompt.tools,
        source=prompt.conversation.get("source"),
        topic=prompt.conversation.get("topic"),
    )


def _metrics(
    parts: Sequence[CommittedPart], answered: Mapping[str, int], num_prompts: int, quarantined: Sequence[Quarantined]
) -> dict[str, Any]:
    """Figures over all models, and each model's own under `NAME/`."""
    metrics: dict[str, Any] = {"num_prompts": num_prompts, **_figures(parts)}
    for name, count in answered.items():
        own = _figures([part for part in parts if part.key.startswith(f"{name}.")])
        metrics |= {f"{name}/num_prompts": count, **{f"{name}/{figure}": value for figure, value in own.items()}}
    return {
        **metrics,
        "num_quarantined": len(quarantined),
        "quarantined_by_reason": dict(sorted(Counter(row.reason for row in quarantined).items())),
    }


def _figures(parts: Sequence[CommittedPart]) -> dict[str, float]:
    totals = {name: sum(part.metrics[name] for part in parts) for name in parts[0].metrics}
    return {
        "num_answers": totals["num_answers"],
        "finished_fraction": totals["num_finished"] / totals["num_answers"],
        "distinct_fraction": totals["num_distinct"] / totals["num_answers"],
        "mean_answer_tokens": totals["num_tokens"] / totals["num_answers"],
        "mean_token_logprob": totals["logprob"] / totals["num_tokens"],
    }
