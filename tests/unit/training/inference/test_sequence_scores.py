from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from cluster.contracts.chat.encoder import ChatEncoder
from tests.chat_fixtures import make_model_directory
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


_TINY = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_ARCHITECTURES = {
    "llama": _TINY,
    "gemma2": {**_TINY, "final_logit_softcapping": 0.2},
    "granite": {**_TINY, "logits_scaling": 7.0},
    "cohere": {**_TINY, "logit_scale": 0.25},
    "gpt2": {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gpt_neox": {**_TINY, "num_key_value_heads": None},
    "opt": {"vocab_size": 97, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    "mixtral": {**_TINY, "num_local_experts": 2},
}


@pytest.mark.parametrize("architecture", _ARCHITECTURES)
def test_chunked_logprobs_are_those_of_all_logits_at_once(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the model scales or caps its logits; never are there more of them at once than a chunk.

    OPT calls its decoder past its `base_model`, and makes the logits of a whole batch.
    """
    torch.manual_seed(0)
    settings = {name: value for name, value in _ARCHITECTURES[architecture].items() if value is not None}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **settings)).eval()
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(3, 97, (length,), generator=generator).tolist() for length in (5, 31, 12, 20, 1)]
    masks = [[bool(token % 3) for token in row] for row in rows]
    masks[2] = [False] * 12
    monkeypatch.setattr("training.inference.sequence_scores._CHUNK_LOGITS", 4 * 97)
    sizes = []
    model.get_output_embeddings().register_forward_hook(lambda _m, _i, logits: sizes.append(logits.numel()))
    scored = answer_logprobs(model, rows, masks, pad_token_id=0, batch_size=2)
    assert architecture == "opt" or max(sizes) <= 4 * 97
    for row, mask, logprob in zip(rows, masks, scored.logprobs_N.tolist(), strict=True):
        with torch.no_grad():
            log_probs_TV = model(input_ids=torch.tensor([row])).logits[0].log_softmax(-1)
        expected = sum(log_probs_TV[t - 1, row[t]].item() for t in range(1, len(row)) if mask[t])
        assert logprob == pytest.approx(expected, abs=1e-5)
    with torch.no_grad():  # the model is left as it was
        assert model(input_ids=torch.tensor([rows[0]])).logits.shape == (1, 5, 97)


def test_a_model_without_layers_of_its_own_is_scored_by_its_logits() -> None:
    class Bigram(torch.nn.Module):
        device = torch.device("cpu")

        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(7, 7)

        def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
            return SimpleNamespace(logits=self.table(input_ids))

    model = Bigram()
    scored = answer_logprobs(model, [[1, 2, 3]], [[True] * 3], pad_token_id=0)
    expected = model.table.weight.log_softmax(-1)
    assert scored.logprobs_N.item() == pytest.approx((expected[1, 2] + expected[2, 3]).item())
