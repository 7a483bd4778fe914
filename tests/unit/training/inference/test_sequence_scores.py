from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from cluster.contracts.chat.encoder import ChatEncoder
from tests.chat_fixtures import make_model_directory
from training.inference.generate import generate_answers
from training.inference.sequence_scores import answer_logprobs, padded, rewards
from training.models import load_model
from training.post_training.reward_model import new_reward_model


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_directory(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def rows(directory: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    talks = [("Who is it?", "The old king."), ("Hi", "Every day the red fox sees a small boat."), ("What now?", "No.")]
    return [
        ChatEncoder(tokenizer).encode([{"role": "user", "content": q}, {"role": "assistant", "content": a}])
        for q, a in talks
    ]


def test_answer_logprobs_agree_with_one_row_at_a_time(directory: Path, rows: Any) -> None:
    model = load_model(directory)
    scored = answer_logprobs(
        model, [r.input_ids_T for r in rows], [r.assistant_mask_T for r in rows], pad_token_id=3, batch_size=2
    )
    for row, logprob, count in zip(rows, scored.logprobs_N, scored.num_tokens_N, strict=True):
        with torch.no_grad():
            log_probs_TV = model(input_ids=torch.tensor([row.input_ids_T])).logits[0].log_softmax(-1)
        expected = sum(
            log_probs_TV[position - 1, token].item()
            for position, (token, answer) in enumerate(zip(row.input_ids_T, row.assistant_mask_T, strict=True))
            if answer
        )
        assert logprob.item() == pytest.approx(expected, rel=1e-5)
        assert count == sum(row.assistant_mask_T)
    assert scored.nll() == pytest.approx(-scored.logprobs_N.sum().item() / scored.num_tokens_N.sum().item())


def test_rewards_do_not_depend_on_the_side_of_the_padding(directory: Path, rows: Any) -> None:
    model = new_reward_model(directory, pad_token_id=3, seed=0).eval()
    sequences = [row.input_ids_T for row in rows]
    alone = [rewards(model, [sequence], pad_token_id=3).item() for sequence in sequences]
    together = rewards(model, sequences, pad_token_id=3).tolist()
    input_ids_BT, attention_mask_BT = padded(sequences, 3, model.device, side="left")
    with torch.no_grad():
        left = model(input_ids=input_ids_BT, attention_mask=attention_mask_BT).logits[:, 0].tolist()
    assert together == pytest.approx(alone, abs=1e-5)
    assert left == pytest.approx(alone, abs=1e-5)


def test_the_same_seed_gives_the_same_answers(directory: Path, rows: Any) -> None:
    model, tokenizer = load_model(directory), AutoTokenizer.from_pretrained(directory)
    stop = ChatEncoder(tokenizer).end_of_turn_id
    assert tokenizer.convert_ids_to_tokens(stop) == "<|im_end|>"
    prompts = [row.input_ids_T[:6] for row in rows]
    how: Any = {"stop_token_ids": [stop], "pad_token_id": 3, "max_new_tokens": 8, "batch_size": 2}
    first = generate_answers(model, prompts, temperature=1.0, seed=1, **how)
    assert first == generate_answers(model, prompts, temperature=1.0, seed=1, **how)
    assert first != generate_answers(model, prompts, temperature=1.0, seed=2, **how)
    assert all(stop not in answer[:-1] for answer in first)
