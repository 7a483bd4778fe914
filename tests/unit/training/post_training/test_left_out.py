"""Answers that can't be learned from are counted, whichever stage reads them and on whichever side they are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.contracts import storage
from cluster.contracts.chat.encoder import ChatEncoder
from tests.chat_fixtures import make_chat_tokenizer
from tests.unit.training.feedback.feedback_rows import pair, ranking
from training.feedback.artifact import FILES, rows_parquet
from training.feedback.conversions import PairRule
from training.feedback.encoded_labels import read_encoded_labels
from training.post_training.config import RewardModelConfig
from training.post_training.reward_data import read_reward_data

LONG = "word " * 200


def write(directory: Path, train: Sequence[Any], heldout: Sequence[Any]) -> str:
    storage.write_bytes(str(directory / FILES["train"]), rows_parquet(train, "train", PairRule()))
    storage.write_bytes(str(directory / FILES["heldout"]), rows_parquet(heldout, "heldout", PairRule()))
    return str(directory)


def encoder_that_refuses(word: str) -> ChatEncoder:
    tokenizer = make_chat_tokenizer()
    refusing = (
        "{% for m in messages %}{% if '"
        + word
        + "' in m['content'] %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
    )
    return ChatEncoder(tokenizer, chat_template=refusing + tokenizer.chat_template)


def test_a_reward_model_counts_the_answers_of_both_sides_that_it_leaves_out(tmp_path: Path) -> None:
    train = [ranking("Who?", ["I.", "You.", "never", LONG], [1, 2, 3, 4])]
    heldout = [ranking("What?", ["This.", "That.", LONG], [1, 2, 3]), ranking("Why?", ["never", "So."], [1, 2])]
    uri = write(tmp_path, train, heldout)
    config = RewardModelConfig(model="sft", preferences="preferences", max_length=100)
    data = read_reward_data(uri, encoder_that_refuses("never"), config)
    assert data.form == "groups"
    assert (data.counts["num_answers_too_long"], data.counts["num_answers_refused"]) == (2, 2)
    assert [len(row["sequences"]) for row in data.rows] == [2]


def test_kto_counts_answers_with_thumbs_both_up_and_down(tmp_path: Path) -> None:
    train = [pair("Who?", "I.", "You."), pair("Who?", "They.", "I.")]
    uri = write(tmp_path, train, [pair("What?", "This.", "That.")])
    training, heldout = read_encoded_labels(uri, ChatEncoder(make_chat_tokenizer()), max_length=100)
    assert (training.num_conflicting, len(training.labels)) == (1, 2)
    assert (heldout.num_conflicting, len(heldout.labels)) == (0, 2)
