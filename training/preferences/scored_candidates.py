"""Feedback out of sampled answers: the candidates of each prompt, with the rewards that a reward model gives them.

The rows are scores, so the pairs that policies learn come by the stage's own rule: the best answer over the worst
(rejection sampling), or all that differ enough. Answers that their length cut off are left out, since a policy would
learn never to end; so are empty ones, and those that the reward model can't read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.contracts import storage
from cluster.contracts.records import Message
from training.candidates.artifact import PromptCandidates, read_candidates
from training.feedback.encoded_answers import encode_answers
from training.feedback.rows import Answer, Feedback, FeedbackRow, Scores
from training.feedback.splitting import FeedbackSplit
from training.inference.sequence_scores import rewards
from training.launch.workers import Worker, gather_over_ranks, share
from training.models import load_reward_model
from training.tokenizers import load_encoder


@dataclass(frozen=True)
class ScoringJob:
    """What the workers that score are told."""

    candidates_uri: str
    reward_model_uri: str
    batch_size: int


def score_candidates(worker: Worker, job: ScoringJob) -> list[float | None] | None:
    """The rewards of all candidates, prompt by prompt; None for one that the reward model can't read.

    Every rank scores its share; rank 0 returns them all.
    """
    answers = [
        (_prompt(prompt), _answer(candidate.answer))
        for prompt in read_candidates(job.candidates_uri)
        for candidate in prompt.candidates
    ]
    with storage.local_copy(job.reward_model_uri, worker.scratch) as local:
        encoder = load_encoder(local, pads_apart=True)
        model = load_reward_model(local).to(worker.device)
    longest = getattr(model.config, "max_position_embeddings", None) or float("inf")
    mine = share(range(len(answers)), worker)
    encoded = encode_answers(encoder, [answers[number] for number in mine])
    fitting = [
        (n, item.input_ids) for n, item in zip(mine, encoded, strict=True) if item and len(item.input_ids) <= longest
    ]
    scored = rewards(
        model, [ids for _, ids in fitting], pad_token_id=model.config.pad_token_id, batch_size=job.batch_size
    )
    found: list[float | None] = [None] * len(answers)
    for number, reward in gather_over_ranks(
        worker, [(n, r) for (n, _), r in zip(fitting, scored.tolist(), strict=True)]
    ):
        found[number] = reward
    return found if worker.is_main else None


def scored_rows(
    prompts: Sequence[PromptCandidates], rewards_N: Sequence[float | None], *, scored_by: str
) -> tuple[FeedbackSplit, dict[str, int]]:
    """(the rows of both sides, what was left out by name): `rewards_N` are those of the prompts' candidates, in order.

    Of answers to a prompt that are the same, the first counts. A prompt with fewer than two answers is left out.
    """
    split = FeedbackSplit()
    left_out: Counter[str] = Counter()
    given = iter(rewards_N)
    for prompt in prompts:
        found: dict[str, tuple[float, str]] = {}
        for candidate in prompt.candidates:
            reward = next(given)
            if candidate.finish_reason == "length":
                left_out["cut_off"] += 1
            elif not candidate.answer.strip():
                left_out["empty"] += 1
            elif reward is None:
                left_out["not_scored"] += 1
            elif candidate.answer in found:
                left_out["repeated"] += 1
            else:
                found[candidate.answer] = reward, candidate.model
        if len(found) < 2:
            left_out["alone"] += len(found)
            continue
        row = Scores(
            kind="scores",
            answers=[_answer(text) for text in found],
            scores=[reward for reward, _ in found.values()],
            models=[model for _, model in found.values()],
            **{**_prompt(prompt), "source_name": scored_by},  # type: ignore[typeddict-item]
        )
        rows: list[FeedbackRow] = split.heldout if prompt.prompt.split == "heldout" else split.train
        rows.append(row)
    names = {f"num_candidates_{name}": count for name, count in sorted(left_out.items())}
    return split, {"num_candidates": len(rewards_N), **names}


def _prompt(prompt: PromptCandidates) -> Feedback:
    found = Feedback(prompt=prompt.prompt.messages, source="model", source_name="")
    if prompt.prompt.tools is not None:
        found["tools"] = prompt.prompt.tools
    if prompt.prompt.topic is not None:
        found["topic"] = prompt.prompt.topic
    return found


def _answer(text: str) -> Answer:
    return [Message(role="assistant", content=text)]
