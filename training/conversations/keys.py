"""What rows are compared by: hashes of all that is said in them, and of each prompt.

Both are of text without the accidents of its writing, and bear on nothing but the row itself, so that rows read on
different machines can be told apart and drawn without their texts.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from cluster.contracts.records import Conversation, is_heldout

_WORD = re.compile(r"\w+")

KEY_SCHEMA = pa.schema(
    [
        ("content_high", pa.uint64()),  # the 128 bits of a hash of all that is said
        ("content_low", pa.uint64()),
        ("asked", pa.list_(pa.uint64())),  # of each of the user's turns; the first decides the split
        ("is_heldout", pa.bool_()),
        ("is_prompt", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class RowKeys:
    """The keys of many rows. Letters: N rows, U turns of users in all of them."""

    content_high_N: npt.NDArray[np.uint64]
    content_low_N: npt.NDArray[np.uint64]
    asked_U: npt.NDArray[np.uint64]
    asked_offsets: npt.NDArray[np.int64]  # [N + 1] where each row's turns begin in `asked_U`
    is_heldout_N: npt.NDArray[np.bool_]
    is_prompt_N: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.is_heldout_N)

    @property
    def first_prompt_N(self) -> npt.NDArray[np.uint64]:
        """The key of each row's first prompt."""
        return self.asked_U[self.asked_offsets[:-1]]


def first_prompt(conversation: Conversation) -> str:
    """What the user says first; the split goes by it."""
    return next(message["content"] for message in conversation["messages"] if message["role"] == "user")


def content_hash(conversation: Conversation) -> tuple[int, int]:
    """The two halves of a 128-bit BLAKE2b hash of all messages and tools.

    The ids of calls are left out, which are random in copies of one conversation too; so are source, topic and the
    row's weight.
    """
    said = []
    for message in conversation["messages"]:
        calls = [call["function"] for call in message.get("tool_calls", ())]
        thoughts, weight = message.get("reasoning_content"), message.get("weight", 1.0)
        said.append([message["role"], message["content"], thoughts, calls, message.get("name"), weight])
    content = orjson.dumps([said, conversation.get("tools", [])], option=orjson.OPT_SORT_KEYS, default=str)
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def prompt_key(prompt: str, *, ignore_punctuation: bool = False) -> int:
    """64 bits of a prompt, without case and white space: what `is_heldout` tells prompts apart by.

    With `ignore_punctuation` it is of the prompt's words alone, without accents; of a prompt without words, as before.
    Two of a million prompts are taken for one with a probability of 3e-8; then one of them is left out of training.
    """
    folded = prompt.casefold()
    if ignore_punctuation:
        decomposed = unicodedata.normalize("NFKD", folded)
        letters = "".join(character for character in decomposed if not unicodedata.combining(character))
        folded = " ".join(_WORD.findall(letters)) or folded
    digest = hashlib.blake2b(" ".join(folded.split()).encode(), digest_size=8, person=b"prompt").digest()
    return int.from_bytes(digest, "little")


def keys_table(
    conversations: Sequence[Conversation],
    are_prompts: Sequence[bool],
    *,
    fraction: float,
    seed: int,
    ignore_punctuation: bool = False,
) -> pa.Table:
    """The keys of rows, as a table of `KEY_SCHEMA`."""
    hashes = [content_hash(conversation) for conversation in conversations]
    asked = [
        [
            prompt_key(message["content"], ignore_punctuation=ignore_punctuation)
            for message in conversation["messages"]
            if message["role"] == "user"
        ]
        for conversation in conversations
    ]
    held = [is_heldout(first_prompt(conversation), fraction=fraction, seed=seed) for conversation in conversations]
    columns = [[high for high, _ in hashes], [low for _, low in hashes], asked, held, list(are_prompts)]
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, KEY_SCHEMA, strict=True)], schema=KEY_SCHEMA
    )


def joined_keys(tables: Sequence[pa.Table]) -> RowKeys:
    """The keys in several tables, one after another."""
    table = pa.concat_tables([KEY_SCHEMA.empty_table(), *tables]).combine_chunks()
    asked = pa.concat_arrays(table.column("asked").chunks) if len(table) else pa.array([], KEY_SCHEMA.field(2).type)
    lengths = asked.value_lengths().to_numpy(zero_copy_only=False)
    return RowKeys(
        content_high_N=table.column("content_high").to_numpy(),
        content_low_N=table.column("content_low").to_numpy(),
        asked_U=asked.flatten().to_numpy(),
        asked_offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        is_heldout_N=table.column("is_heldout").to_numpy(),
        is_prompt_N=table.column("is_prompt").to_numpy(),
    )
