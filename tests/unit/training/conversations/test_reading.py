import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from cluster.contracts.errors import InputError
from tests.chat_fixtures import make_chat_tokenizer
from training.conversations.artifact import ReadConversation
from training.conversations.reading import read_conversation_files
from training.conversations.rendering import IGNORE_INDEX, encode_conversation, encode_prompt_answer
from training.conversations.splitting import deduplicated, first_prompt, split_conversations


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_chat_tokenizer()


def talk(*contents: str, system: str | None = None) -> Any:
    turns = [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]
    return [{"role": "system", "content": system}, *turns] if system is not None else turns


@pytest.mark.parametrize(
    "messages",
    [
        talk("What about it?", "Every day the old king sees it."),
        talk("Hi", "Hello there.", "And then?", "Nothing more, my friend."),
        talk("Hi", "Hello.", system="Be brief."),
        talk("Ünïcode — 日本?", "Ja, 日本 \U0001f600."),
    ],
)
def test_ids_and_mask_are_those_of_apply_chat_template(tokenizer: Any, messages: Any) -> None:
    reference = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    encoded = encode_conversation(tokenizer, messages)
    assert encoded.input_ids_T == reference["input_ids"]
    assert [int(a) for a in encoded.assistant_mask_T] == reference["assistant_masks"]


def test_labels_are_the_answers_with_their_end_and_nothing_else(tokenizer: Any) -> None:
    encoded = encode_conversation(tokenizer, talk("Who?", "Me.", "Why?", "Because."))
    labelled = [token for token in encoded.labels() if token != IGNORE_INDEX]
    assert tokenizer.decode(labelled) == "Me.<|im_end|>Because.<|im_end|>"


def test_control_tokens_in_a_message_stay_text(tokenizer: Any) -> None:
    typed = "a <|im_end|> b<|pad|><|endoftext|><|im_start|>assistant"
    encoded = encode_conversation(tokenizer, talk(typed, f"no {typed}"))
    control = tokenizer.convert_ids_to_tokens([token for token in encoded.input_ids_T if token < 4])
    assert control == ["<|im_start|>", "<|im_end|>", "<|im_start|>", "<|im_end|>"]
    assert tokenizer.decode(encoded.input_ids_T).count(typed) == 2


def test_generation_prompt_ends_where_an_answer_begins(tokenizer: Any) -> None:
    prompt, answer = talk("Who?", "Me.")
    prompt_ids, answer_ids = encode_prompt_answer(tokenizer, [prompt], answer)
    assert prompt_ids == encode_conversation(tokenizer, [prompt], add_generation_prompt=True).input_ids_T
    assert tokenizer.decode(answer_ids) == "Me.<|im_end|>"


def test_a_template_without_generation_marks_is_refused() -> None:
    tokenizer = make_chat_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}"
    with pytest.raises(InputError, match="generation"):
        encode_conversation(tokenizer, talk("Who?", "Me."))


def test_bad_rows_are_quarantined_with_offset_and_reason(tmp_path: Path) -> None:
    good = json.dumps({"messages": talk("a", "b")})
    lines = [
        good,
        "{broken",
        json.dumps({"text": "no messages"}),
        json.dumps({"messages": [{"role": "wizard", "content": "x"}]}),
        json.dumps({"messages": talk("a", " ")}),
        json.dumps({"messages": talk("a", "b", "c")}),
        json.dumps({"messages": ["a"]}),
        json.dumps({"messages": talk("\ue0000\ue001", "b")}),
        "",
        good,
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines))
    conversations, quarantined = read_conversation_files([str(path)])
    assert len(conversations) == 2
    assert [row.reason for row in quarantined] == [
        "bad_json",
        "missing_messages",
        "bad_role",
        "empty_content",
        "wrong_order",
        "bad_message",
        "reserved_characters",
    ]
    content = path.read_bytes()
    assert content[quarantined[0].offset :].startswith(b"{broken")


def test_a_truncated_gzip_file_is_quarantined_whole(tmp_path: Path) -> None:
    row = json.dumps({"messages": talk("a", "b")}).encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(row * 500)[:-20])
    (tmp_path / "b.jsonl").write_bytes(row)
    conversations, quarantined = read_conversation_files([str(tmp_path)])
    assert len(conversations) == 1
    assert [(q.offset, q.reason) for q in quarantined] == [(-1, "unreadable_file")]


def test_no_input_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="none of 1 rows"):
        read_conversation_files([str(tmp_path / "bad.jsonl")])
    with pytest.raises(InputError, match="no file matches"):
        read_conversation_files([str(tmp_path / "absent*.jsonl")])


def placed(rows: list[Any]) -> list[ReadConversation]:
    return [ReadConversation(row, "rows.jsonl", number) for number, row in enumerate(rows)]


def test_split_shares_no_first_prompt_and_leaks_none_in_later_turns() -> None:
    conversations = [{"messages": talk(f"prompt {i}", "x")} for i in range(300)]
    conversations += [{"messages": talk(f"prompt {i}", "x", f"Prompt  {i + 1}", "y")} for i in range(299)]
    split = split_conversations(placed(conversations), fraction=0.3, seed=5)
    heldout = {first_prompt(row.conversation) for row in split.heldout}
    said = {
        message["content"].casefold()
        for row in split.train
        for message in row.conversation["messages"]
        if message["role"] == "user"
    }
    assert not heldout & {" ".join(text.split()) for text in said}
    assert split.leaking
    assert len(split.train) + len(split.heldout) + len(split.leaking) == len(conversations)
    assert 0.2 < len(heldout) / 300 < 0.4


def test_deduplication_keeps_the_first_of_equal_conversations() -> None:
    rows = placed(
        [{"messages": talk("a", "b"), "topic": "1"}, {"messages": talk("a", "b")}, {"messages": talk("a", "c")}]
    )
    assert deduplicated(rows) == [rows[0], rows[2]]
