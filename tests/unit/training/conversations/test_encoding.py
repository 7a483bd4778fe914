"""Rows in files are the rows that the encoder makes, however many ranks wrote them, and what is left out is counted."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.chat_tokenizers import tokenizer_for
from cluster.contracts.chat.encoder import ChatEncoder
from tests.chat_fixtures import conversation
from training.conversations import encoding
from training.conversations.encoding import EncodedRows, Unused, mapped_rows, write_rows

TEMPLATE = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def encoder() -> ChatEncoder:
    return ChatEncoder(tokenizer_for(TEMPLATE))


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_files_of_ranks_hold_the_rows_in_their_order(
    encoder: ChatEncoder, tmp_path: Path, num_ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_BATCH", 7)
    conversations: list[Any] = [conversation(number) for number in range(50)]
    bounds = [50 * rank // num_ranks for rank in range(num_ranks + 1)]
    paths = [tmp_path / f"{rank}.arrow" for rank in range(num_ranks)]
    for path, start, stop in zip(paths, bounds[:-1], bounds[1:], strict=True):
        write_rows(path, encoder, conversations[start:stop], max_length=40)
    rows = EncodedRows(mapped_rows(paths), Unused())
    expected = [encoder.encode(c["messages"]).truncated(40) for c in conversations]
    assert list(rows) == rows[:] == expected
    assert rows.lengths == [len(row.input_ids_T) for row in expected]
    assert rows.num_answer_tokens == sum(sum(row.assistant_mask_T) for row in expected)
    order = [3, 49, 3, 0]
    dataset = rows.dataset(order)
    assert dataset["input_ids"][:] == [expected[number].input_ids_T for number in order]
    assert dataset["labels"][:] == [expected[number].labels() for number in order]


def test_what_cannot_be_learnt_is_counted_by_reason(encoder: ChatEncoder, tmp_path: Path) -> None:
    question, answer = conversation(0)["messages"]
    length = len(encoder.encode([question, answer]).input_ids_T)
    rows: list[Any] = [
        {"messages": [question, answer]},
        {"messages": [question, {**answer, "content": answer["content"] * 3}]},  # its end is cut off
        {"messages": [question, {**answer, "weight": 0}]},
        {"messages": [question, answer], "weight": 0},
        {"messages": [{**question, "content": question["content"] * 20}, answer]},  # no answer is left
        {"messages": [{"role": "system", "content": "Be brief."}, question, answer]},
    ]
    unused = write_rows(tmp_path / "rows.arrow", encoder, rows, max_length=length)
    assert mapped_rows([tmp_path / "rows.arrow"]).num_rows == 2
    assert (unused.num_truncated, unused.num_without_answer, unused.num_refused) == (1, 3, 1)
    assert unused.refused == {"template_refuses": 1}


def test_no_rows_are_a_file_too(encoder: ChatEncoder, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.arrow", encoder, [], max_length=40)
    rows = EncodedRows(mapped_rows([tmp_path / "rows.arrow"]), Unused())
    assert not rows
    assert rows.num_answer_tokens == 0
