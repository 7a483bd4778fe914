"""Answers to prompts as token ids, with the mask of what the assistant says in them.

A conversation is encoded whole by the one encoder, so prompt and answer are what a policy is given and what it samples.
What a template writes behind the end of the last turn (ChatML's line break) is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.contracts.chat.encoder import ChatEncoder
from cluster.contracts.chat.rendering import ChatRefused
from cluster.contracts.records import Message
from training.feedback.rows import Answer, Feedback


@dataclass(frozen=True)
class EncodedAnswer:
    """A conversation up to the end of its last turn, of which the first tokens are the prompt."""

    input_ids: list[int]
    num_prompt_tokens: int
    answer_mask: list[bool]  # which of `input_ids` the assistant says in the answer


def encode_answers(encoder: ChatEncoder, answers: Sequence[tuple[Feedback, Answer]]) -> list[EncodedAnswer | None]:
    """The answers, each with its row, which holds prompt and tools; None where the chat template refuses one.

    All turns of the assistant in an answer count; the results of tools and what the user says in between do not. Raises
    `InputError` for a chat template that is of no use for training.
    """
    conversations = []
    for row, answer in answers:
        silent = [Message(**{**message, "weight": 0.0}) for message in row["prompt"]]
        heard = [Message(**{**message, "weight": 1.0}) for message in answer]
        conversations.append(([*silent, *heard], row.get("tools")))
    found: list[EncodedAnswer | None] = []
    for encoded in encoder.encode_batch(conversations):
        if isinstance(encoded, ChatRefused):
            found.append(None)
            continue
        mask = encoded.assistant_mask_T
        first, end = mask.index(True), len(mask) - mask[::-1].index(True)
        found.append(EncodedAnswer(encoded.input_ids_T[:end], first, mask[:end]))
    return found
