"""Conversations: reading them, splitting them by prompt, and turning them into tokens with an answer mask.

Text in a message never makes a control token. The chat template is rendered with place-holders where the
contents go; what the template itself writes is encoded with special tokens, and each content apart from it
with special tokens switched off. So `<|im_end|>` typed by a person is eight or so ordinary tokens.

Shape letters: T tokens of one conversation.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, TypeVar

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from cluster.contracts import storage
from cluster.contracts.errors import InputError
from cluster.contracts.records import QUARANTINE_SCHEMA, Conversation, Message, Quarantined, is_heldout

Row = TypeVar("Row")

QUARANTINE_FILE = "quarantined.parquet"
IGNORE_INDEX = -100  # a label that carries no loss, for torch and TRL alike
_PLACE_HOLDER = re.compile("\ue000([0-9]+)\ue001")  # private-use characters: no template writes them


class BadRow(ValueError):
    """A row that is not what it should be; the message is a short fixed word, counted in reports."""


@dataclass(frozen=True)
class EncodedConversation:
    """Token ids, and which of them an assistant must produce."""

    input_ids_T: list[int]
    assistant_mask_T: list[bool]

    def labels(self) -> list[int]:
        """[T] The ids to predict: those of answers, `IGNORE_INDEX` elsewhere."""
        return [
            token if answer else IGNORE_INDEX
            for token, answer in zip(self.input_ids_T, self.assistant_mask_T, strict=True)
        ]

    def truncated(self, max_length: int) -> EncodedConversation:
        """The first `max_length` tokens."""
        return EncodedConversation(self.input_ids_T[:max_length], self.assistant_mask_T[:max_length])


@dataclass(frozen=True)
class ConversationSplit:
    """Both sides of a split by first prompt, and how many rows belonged to neither."""

    train: list[Conversation]
    heldout: list[Conversation]
    num_leaking: int  # training rows left out because a later turn asks a held-out prompt


def read_conversations(patterns: Sequence[str]) -> tuple[list[Conversation], list[Quarantined]]:
    """All conversations of the JSON Lines files that `patterns` name, in order, and the rows that are none.

    Raises `InputError` where a pattern matches nothing or no row at all is a conversation.
    """
    conversations, quarantined = read_rows(patterns, parse_conversation)
    if not conversations:
        raise InputError(
            f"{', '.join(patterns)}: none of {len(quarantined)} rows is a conversation; "
            'each line must be {"messages": [{"role": "user", "content": ...}, {"role": "assistant", ...}]}'
        )
    return conversations, quarantined


def read_rows(patterns: Sequence[str], parse: Callable[[bytes], Row]) -> tuple[list[Row], list[Quarantined]]:
    """What `parse` makes of every line of the JSON Lines files that `patterns` name, and the lines it refuses.

    Files come sorted by URI, as often as they are named, so what the fingerprint says is what is read.

    `parse` raises `BadRow` for a line it refuses. A quarantined line's offset is its first byte's, in the
    decompressed file; a compressed file that can't be decompressed is quarantined whole, with offset -1.
    Raises `InputError` where a pattern matches nothing.
    """
    rows: list[Row] = []
    quarantined: list[Quarantined] = []
    files = []
    for pattern in patterns:
        matched = storage.expand(pattern)
        if not matched:
            raise InputError(f"no file matches {pattern!r}; give a path, a directory or a glob of JSON Lines files")
        files += matched
    for file in sorted(files, key=lambda file: file.uri):
        try:
            lines = list(_lines(file.uri))
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            quarantined.append(Quarantined(file.uri, -1, "unreadable_file", str(error)))
            continue
        for offset, line in lines:
            try:
                rows.append(parse(line))
            except BadRow as error:
                detail = line[:200].decode("utf-8", "replace")
                quarantined.append(Quarantined(file.uri, offset, str(error), detail))
    return rows, quarantined


def parse_text(line: bytes) -> str:
    """The `text` of a JSON line. Raises `BadRow` with one of: bad_json, missing_text."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BadRow("bad_json") from error
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise BadRow("missing_text")
    return str(row["text"])


def parse_conversation(line: bytes) -> Conversation:
    """A JSON line as a conversation: an optional system message, then user and assistant in turn.

    Raises `BadRow` with one of: bad_json, missing_messages, bad_message, bad_role, empty_content,
    reserved_characters (our place-holders), wrong_order (the first speaker is not the user, or the last not
    the assistant, or one speaks twice).
    """
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BadRow("bad_json") from error
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list) or not row["messages"]:
        raise BadRow("missing_messages")
    messages = parse_messages(row["messages"])
    turns = [message["role"] for message in messages if message["role"] != "system"]
    expected = ["user", "assistant"] * (len(turns) // 2)
    if not turns or turns != expected or any(message["role"] == "system" for message in messages[1:]):
        raise BadRow("wrong_order")
    topic = row.get("topic")
    return Conversation(messages=messages, topic=topic) if isinstance(topic, str) else Conversation(messages=messages)


def parse_messages(values: Sequence[Any]) -> list[Message]:
    """Checked messages, in whatever order. Raises `BadRow`."""
    return [_parse_message(value) for value in values]


def quarantine_parquet(rows: Sequence[Quarantined]) -> bytes:
    """The quarantined rows as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=QUARANTINE_SCHEMA), sink)
    return bytes(sink.getvalue().to_pybytes())


def first_prompt(conversation: Conversation) -> str:
    """What the user says first; the split goes by it."""
    return next(message["content"] for message in conversation["messages"] if message["role"] == "user")


def deduplicated(conversations: Iterable[Conversation]) -> list[Conversation]:
    """The first of each set of conversations with the same messages."""
    first: dict[tuple[tuple[str, str], ...], Conversation] = {}
    for conversation in conversations:
        first.setdefault(tuple((m["role"], m["content"]) for m in conversation["messages"]), conversation)
    return list(first.values())


def split_conversations(conversations: Iterable[Conversation], *, fraction: float, seed: int) -> ConversationSplit:
    """Split by first prompt (`is_heldout`), so that every stage agrees and no prompt is on both sides.

    A training conversation in which a later user message is a held-out first prompt is on neither side.
    """
    train: list[Conversation] = []
    heldout: list[Conversation] = []
    for conversation in conversations:
        is_held = is_heldout(first_prompt(conversation), fraction=fraction, seed=seed)
        (heldout if is_held else train).append(conversation)
    heldout_prompts = {_normalised(first_prompt(conversation)) for conversation in heldout}
    clean = [
        conversation
        for conversation in train
        if not any(
            message["role"] == "user" and _normalised(message["content"]) in heldout_prompts
            for message in conversation["messages"]
        )
    ]
    return ConversationSplit(clean, heldout, len(train) - len(clean))


def encode_conversation(
    tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool = False
) -> EncodedConversation:
    """Tokens of a conversation under the tokenizer's chat template, and the mask of its `{% generation %}` parts.

    `tokenizer` is a Hugging Face fast tokenizer. The ids are those of `apply_chat_template` wherever no
    content spells a control token and no pre-token spans a message's border. Raises `InputError` where the
    template is missing, does not mark what the assistant says, or leaves a message out.
    """
    # Imported here: reading and splitting conversations must not cost the import of transformers.
    from transformers.utils.chat_template_utils import render_jinja_template

    if not tokenizer.chat_template:
        raise InputError(f"the tokenizer of {tokenizer.name_or_path!r} has no chat template")
    held = [{"role": m["role"], "content": f"\ue000{i}\ue001"} for i, m in enumerate(messages)]
    rendered, spans = render_jinja_template(
        [held],
        chat_template=tokenizer.chat_template,
        return_assistant_tokens_mask=True,
        add_generation_prompt=add_generation_prompt,
        **tokenizer.special_tokens_map,
    )
    text, answer_spans = rendered[0], spans[0]
    num_answers = sum(message["role"] == "assistant" for message in messages)
    if len(answer_spans) != num_answers or len(_PLACE_HOLDER.findall(text)) != len(messages):
        raise InputError(
            f"the chat template of {tokenizer.name_or_path!r} must write every message once and mark what the "
            "assistant says with {% generation %}"
        )
    input_ids: list[int] = []
    mask: list[bool] = []
    for start, end, is_answer in _pieces(text, answer_spans):
        holder = _PLACE_HOLDER.fullmatch(text, start, end)
        if holder:
            content = messages[int(holder[1])]["content"]
            ids = tokenizer(content, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        else:
            ids = tokenizer(text[start:end], add_special_tokens=False, split_special_tokens=False)["input_ids"]
        input_ids += ids
        mask += [is_answer] * len(ids)
    return EncodedConversation(input_ids, mask)


def encode_exchange(tokenizer: Any, prompt: Sequence[Message], answer: Message) -> tuple[list[int], list[int]]:
    """(prompt ids, answer ids) of one answer; the answer ends with the token that ends its turn.

    Exactly what a policy is given and what it samples, so reward models and DPO see sequences as rollouts
    have them: what a template writes after the end of the turn (ChatML's newline) is left out.
    """
    encoded = encode_conversation(tokenizer, [*prompt, answer])
    last = len(encoded.assistant_mask_T)
    while not encoded.assistant_mask_T[last - 1]:
        last -= 1
    first = last
    while first and encoded.assistant_mask_T[first - 1]:
        first -= 1
    return encoded.input_ids_T[:first], encoded.input_ids_T[first:last]


def _pieces(text: str, answer_spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, bool]]:
    """`text` cut at place-holders and at the borders of answers: (start, end, whether an answer)."""
    cuts = {0, len(text)}
    for match in _PLACE_HOLDER.finditer(text):
        cuts |= {match.start(), match.end()}
    for start, end in answer_spans:
        cuts |= {start, end}
    ordered = sorted(cuts)
    for start, end in pairwise(ordered):
        yield start, end, any(low <= start and end <= high for low, high in answer_spans)


def _parse_message(value: Any) -> Message:
    if not isinstance(value, dict):
        raise BadRow("bad_message")
    role, content = value.get("role"), value.get("content")
    if role not in ("system", "user", "assistant"):
        raise BadRow("bad_role")
    if not isinstance(content, str) or not content.strip():
        raise BadRow("empty_content")
    if _PLACE_HOLDER.search(content):
        raise BadRow("reserved_characters")
    return Message(role=role, content=content)


def _normalised(prompt: str) -> str:
    return " ".join(prompt.casefold().split())


def _decompressed_zst(content: bytes) -> bytes:
    """All frames of a .zst file. Raises `zstandard.ZstdError` for one that is cut off; the stream reader would not."""
    pieces = []
    while content:
        frame = zstandard.ZstdDecompressor().decompressobj()
        pieces.append(frame.decompress(content))
        if not frame.eof:
            raise zstandard.ZstdError("the file is truncated")
        content = frame.unused_data
    return b"".join(pieces)


def _lines(uri: str) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of the lines of a file that are not blank."""
    content = storage.read_bytes(uri)
    if uri.endswith(".zst"):
        content = _decompressed_zst(content)
    elif uri.endswith(".gz"):
        content = gzip.decompress(content)
    offset = 0
    for line in content.splitlines(keepends=True):
        if line.strip():
            yield offset, line.rstrip(b"\r\n")
        offset += len(line)
