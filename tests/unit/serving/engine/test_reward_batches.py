from typing import Any

import pytest
import torch
from transformers import LlamaForSequenceClassification

from cluster.contracts.errors import InputError
from serving.engine.reward_batches import score_sequences, token_batches
from tests.unit.serving.tiny_models import llama_config


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return LlamaForSequenceClassification(llama_config(num_labels=1)).eval()


def sequences(count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 60, (count,), generator=generator).tolist()
    return [torch.randint(1, 400, (length,), generator=generator).tolist() for length in lengths]


@pytest.mark.parametrize("max_batch_tokens", [1, 100, 10_000])
def test_batched_scores_equal_the_models_own_one_at_a_time(model: Any, max_batch_tokens: int) -> None:
    asked = sequences(20)
    scores = score_sequences(model, asked, max_batch_size=8, max_batch_tokens=max_batch_tokens)
    with torch.no_grad():
        expected = [model(torch.tensor([sequence])).logits.item() for sequence in asked]
    assert scores == pytest.approx(expected, abs=1e-5)


def test_the_last_token_is_scored_even_where_it_is_the_padding_token(model: Any) -> None:
    sequence = [5, 6, 7, model.config.pad_token_id]
    with torch.no_grad():
        hidden = model.model(torch.tensor([sequence])).last_hidden_state
        expected = model.score(hidden)[0, -1, 0].item()
    (score,) = score_sequences(model, [sequence], max_batch_size=8, max_batch_tokens=100)
    assert score == pytest.approx(expected, abs=1e-6)
    assert score != pytest.approx(score_sequences(model, [sequence[:3]], max_batch_size=1, max_batch_tokens=9)[0])


def test_batches_hold_every_index_once_and_stay_within_their_budget() -> None:
    lengths = [3, 50, 7, 7, 120, 1, 30, 9]
    batches = token_batches(lengths, max_batch_size=3, max_batch_tokens=64)
    assert sorted(index for batch in batches for index in batch) == list(range(8))
    for batch in batches:
        assert len(batch) <= 3
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 64
    assert batches[0] == [4]


@pytest.mark.parametrize(
    ("sequence", "complaint"), [([], "empty"), ([400], "outside of 0 to 399"), ([1] * 257, "257 tokens")]
)
def test_sequences_the_model_cannot_take_are_refused(model: Any, sequence: list[int], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        score_sequences(model, [[1, 2], sequence], max_batch_size=8, max_batch_tokens=100)
