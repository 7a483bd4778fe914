from collections.abc import Sequence
from typing import Any

import pytest
import torch
from scipy import stats
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM, Qwen3Config, Qwen3ForCausalLM

from cluster.contracts.errors import InputError, StageFailed
from cluster.contracts.records import GenerateRequest, SamplingParams
from serving.engine.protocol import TokenEvent
from serving.engine.torch_engine import TorchEngine
from tests.unit.serving.tiny_models import tiny_policy

VOCAB = 400


def prompts(count: int, *, longest: int = 40, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest, (count,), generator=generator).tolist()
    return [torch.randint(1, VOCAB, (length,), generator=generator).tolist() for length in lengths]


def greedy(prompt: Sequence[int], max_new_tokens: int = 12, **settings: Any) -> GenerateRequest:
    return GenerateRequest(prompt, SamplingParams(max_new_tokens=max_new_tokens, temperature=0.0, **settings))


def run(engine: TorchEngine, *, steps: int | None = None) -> dict[int, list[TokenEvent]]:
    """Step until nothing is left (or so many steps); events by request."""
    events: dict[int, list[TokenEvent]] = {}
    taken = 0
    while (steps is None or taken < steps) and (made := engine.step()):
        taken += 1
        for event in made:
            events.setdefault(event.request_id, []).append(event)
    return events


def tokens_of(events: Sequence[TokenEvent]) -> list[int]:
    return [event.token_id for event in events]


@torch.no_grad()
def hf_greedy(model: Any, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
    output = model.generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=None, pad_token_id=0
    )
    return output[0, len(prompt) :].tolist()


@torch.no_grad()
def full_logprobs(model: Any, prompt: Sequence[int], answer: Sequence[int], temperature: float) -> torch.Tensor:
    """Log-probabilities of the answer's tokens from one uncached forward pass."""
    logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.float() / temperature, -1)[torch.arange(len(answer)), torch.tensor(answer)]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_policy()


@pytest.mark.parametrize(
    "limits",
    [
        {"max_batch_size": 16},
        {"max_batch_size": 3},
        {"max_batch_size": 1},
        {"max_prefill_tokens": 8},
        {"max_batch_tokens": 128},
    ],
    ids=lambda limits: str(limits),
)
def test_greedy_answers_equal_generate_with_continuous_admission(model: Any, limits: dict[str, int]) -> None:
    engine = TorchEngine(model, **limits)
    asked = prompts(12)
    lengths = [5, 17, 1, 9, 12, 3, 20, 7, 11, 2, 30, 6]
    first = [engine.submit(greedy(p, n)) for p, n in zip(asked[:5], lengths[:5], strict=True)]
    events = run(engine, steps=4)
    later = [engine.submit(greedy(p, n)) for p, n in zip(asked[5:], lengths[5:], strict=True)]
    for request, more in run(engine).items():
        events.setdefault(request, []).extend(more)
    for request, prompt, length in zip(first + later, asked, lengths, strict=True):
        assert tokens_of(events[request]) == hf_greedy(model, prompt, length)
        assert [e.finish_reason for e in events[request]] == [None] * (length - 1) + ["length"]
    assert engine.load().num_running == engine.load().num_waiting == 0


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_equal_a_full_forward_pass(model: Any, temperature: float) -> None:
    engine = TorchEngine(model, max_batch_size=5)
    asked = prompts(9)
    ids = [
        engine.submit(GenerateRequest(p, SamplingParams(max_new_tokens=15, temperature=temperature, top_p=0.9, seed=i)))
        for i, p in enumerate(asked)
    ]
    events = run(engine)
    for request, prompt in zip(ids, asked, strict=True):
        expected = full_logprobs(model, prompt, tokens_of(events[request]), temperature)
        torch.testing.assert_close(torch.tensor([e.logprob for e in events[request]]), expected, atol=1e-4, rtol=0)


def test_first_tokens_fit_the_softmax_of_the_model(model: Any) -> None:
    prompt, num_draws = [5, 9, 2], 4_000
    engine = TorchEngine(model, max_batch_size=500, max_batch_tokens=64_000)
    for seed in range(num_draws):
        engine.submit(GenerateRequest(prompt, SamplingParams(max_new_tokens=1, top_k=15, seed=seed)))
    sampled = torch.tensor([events[0].token_id for events in run(engine).values()])
    with torch.no_grad():
        top = model(torch.tensor([prompt])).logits[0, -1].topk(15)
    counts = torch.tensor([int((sampled == token).sum()) for token in top.indices])
    assert counts.sum() == num_draws
    assert stats.chisquare(counts.numpy(), top.values.double().softmax(-1).numpy() * num_draws).pvalue > 0.01


def test_a_seeded_answer_does_not_depend_on_its_neighbours(model: Any) -> None:
    request = GenerateRequest([7, 8, 9], SamplingParams(max_new_tokens=20, seed=42))
    alone = TorchEngine(model)
    alone_id = alone.submit(request)
    expected = tokens_of(run(alone)[alone_id])

    crowded = TorchEngine(model, max_batch_size=4, max_batch_tokens=512)
    for prompt in prompts(6, seed=3):
        crowded.submit(greedy(prompt, 9))
    run(crowded, steps=3)
    crowded_id = crowded.submit(request)
    for prompt in prompts(6, seed=4):
        crowded.submit(greedy(prompt, 14))
    assert tokens_of(run(crowded)[crowded_id]) == expected


def test_requests_without_a_seed_differ(model: Any) -> None:
    engine = TorchEngine(model)
    for _ in range(4):
        engine.submit(GenerateRequest([3, 4], SamplingParams(max_new_tokens=10)))
    assert len({tuple(tokens_of(events)) for events in run(engine).values()}) == 4


def test_a_stop_token_ends_the_answer_and_is_part_of_it(model: Any) -> None:
    prompt = [5, 6, 7]
    expected = hf_greedy(model, prompt, 12)
    stop = expected[5]
    engine = TorchEngine(model)
    engine.submit(greedy(prompt, stop_token_ids=(stop,)))
    events = run(engine)[0]
    assert tokens_of(events) == expected[: expected.index(stop) + 1]
    assert events[-1].finish_reason == "stop"


def test_new_weights_apply_to_rows_in_flight_and_no_old_key_survives(model: Any) -> None:
    old, new = tiny_policy(0), tiny_policy(99)
    engine = TorchEngine(old, version=3)
    asked = prompts(6, seed=5)
    ids = [engine.submit(greedy(prompt, 20)) for prompt in asked]
    before = run(engine, steps=8)
    engine.update_weights(4, new.state_dict())
    after = run(engine)
    reference_old = tiny_policy(0)
    for request, prompt in zip(ids, asked, strict=True):
        made = tokens_of(before[request])
        assert made == hf_greedy(reference_old, prompt, 8)
        # From the update on, the answer is what the new weights say when they read everything anew.
        assert tokens_of(after[request]) == hf_greedy(new, [*prompt, *made], 12)
        assert [e.version for e in before[request] + after[request]] == [3] * 8 + [4] * 12


def test_weights_of_another_model_are_refused_and_nothing_changes() -> None:
    model = tiny_policy(0)
    engine = TorchEngine(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = tiny_policy(1).state_dict()
    wrong_shape = {**state, "model.norm.weight": torch.ones(3)}
    missing = {name: tensor for name, tensor in state.items() if name != "model.norm.weight"}
    for bad, complaint in (
        (wrong_shape, "another shape"),
        (missing, "missing"),
        ({**state, "x": state["lm_head.weight"]}, "unknown"),
    ):
        with pytest.raises(InputError, match=complaint):
            engine.update_weights(1, bad)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert engine.version == 0


def test_tied_embeddings_may_be_left_out_of_an_update() -> None:
    engine = TorchEngine(tiny_policy(0, tie_word_embeddings=True))
    new = tiny_policy(1, tie_word_embeddings=True)
    state = {name: tensor for name, tensor in new.state_dict().items() if name != "lm_head.weight"}
    engine.update_weights(1, state)
    engine.submit(greedy([4, 5, 6]))
    assert tokens_of(run(engine)[0]) == hf_greedy(new, [4, 5, 6], 12)


def test_a_full_batch_preempts_its_youngest_rows_and_stays_within_its_budget(model: Any) -> None:
    engine = TorchEngine(model, max_batch_tokens=256, max_batch_size=8)
    asked = [[token] * 30 for token in range(1, 5)]
    for prompt in asked:
        engine.submit(greedy(prompt, 90))
    events: dict[int, list[TokenEvent]] = {}
    preempted = False
    while made := engine.step():
        load = engine.load()
        preempted |= load.num_waiting > 0
        layer = engine._model.cache.layers[0]
        assert layer.keys.shape[0] * layer.keys.shape[2] <= 256
        for event in made:
            events.setdefault(event.request_id, []).append(event)
    assert preempted
    for request, prompt in enumerate(asked):
        assert tokens_of(events[request]) == hf_greedy(model, prompt, 90)


def test_cancelled_requests_make_no_more_tokens_and_leave_the_others_right(model: Any) -> None:
    engine = TorchEngine(model, max_batch_size=4)
    asked = prompts(6, seed=8)
    ids = [engine.submit(greedy(prompt)) for prompt in asked]
    before = run(engine, steps=3)
    engine.cancel(ids[1])
    engine.cancel(ids[5])
    engine.cancel(12_345)
    after = run(engine)
    assert ids[1] not in after
    assert ids[5] not in after
    for i in (0, 2, 3, 4):
        assert tokens_of(before.get(ids[i], []) + after[ids[i]]) == hf_greedy(model, asked[i], 12)


def test_equal_prompts_are_prefilled_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TorchEngine(model)
    batch_sizes = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **kw: batch_sizes.append(kw["input_ids"].shape) or forward(**kw))
    for seed in range(6):
        engine.submit(GenerateRequest([1, 2, 3, 4], SamplingParams(max_new_tokens=2, seed=seed)))
    run(engine)
    assert batch_sizes[0] == (1, 3)


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        (GenerateRequest([]), "empty"),
        (GenerateRequest([1, VOCAB]), "outside of 0 to 399"),
        (greedy([1] * 250, 7), "257"),
        (greedy([1], 0), "max_new_tokens is 0"),
        (GenerateRequest([1], SamplingParams(temperature=-1)), "temperature is -1"),
        (GenerateRequest([1], SamplingParams(temperature=float("nan"))), "temperature is nan"),
        (GenerateRequest([1], SamplingParams(top_p=0)), "top_p is 0"),
        (GenerateRequest([1], SamplingParams(top_k=-1)), "top_k is -1"),
    ],
)
def test_requests_that_can_never_be_answered_are_refused(model: Any, request_: GenerateRequest, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        TorchEngine(model).submit(request_)


def test_the_longest_request_that_is_taken_is_answered_whole(model: Any) -> None:
    engine = TorchEngine(model)
    engine.submit(greedy([3] * 250, 6))
    assert len(run(engine)[0]) == 6


def test_weights_that_are_not_finite_are_reported_not_sampled_from() -> None:
    engine = TorchEngine(tiny_policy(0))
    state = tiny_policy(0).state_dict()
    state["model.norm.weight"] = torch.full_like(state["model.norm.weight"], float("nan"))
    engine.update_weights(7, state)
    engine.submit(greedy([1, 2]))
    with pytest.raises(StageFailed, match="not finite under version 7"):
        engine.step()


def small(config: type, **settings: Any) -> Any:
    return config(
        **{
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
            **settings,
        }
    )


def test_other_architectures_answer_like_generate() -> None:
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=128)).eval()
    qwen = Qwen3ForCausalLM(small(Qwen3Config, head_dim=16)).eval()
    for model in (gpt2, qwen):
        engine = TorchEngine(model)
        asked = prompts(4, seed=2)
        ids = [engine.submit(greedy(prompt)) for prompt in asked]
        events = run(engine)
        assert [tokens_of(events[i]) for i in ids] == [hf_greedy(model, prompt, 12) for prompt in asked]


def test_windowed_attention_is_refused() -> None:
    model = MistralForCausalLM(small(MistralConfig, sliding_window=16)).eval()
    with pytest.raises(InputError, match="sliding window"):
        TorchEngine(model)


def test_a_model_whose_cached_decoding_is_wrong_is_refused_at_load(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_policy(0)
    forward = model.forward

    def without_positions(*args: Any, **keywords: Any) -> Any:
        keywords.pop("position_ids", None)  # every decoded token believes that it is the first
        return forward(*args, **keywords)

    monkeypatch.setattr(model, "forward", without_positions)
    with pytest.raises(InputError, match="differ from a plain forward pass"):
        TorchEngine(model)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_answers_like_generate_and_takes_new_weights_from_the_cpu() -> None:
    model = tiny_policy(0).to("cuda")
    engine = TorchEngine(model, max_batch_size=3)
    asked = prompts(6)
    ids = [engine.submit(greedy(prompt)) for prompt in asked]
    events = run(engine)
    reference = tiny_policy(0)
    assert [tokens_of(events[i]) for i in ids] == [hf_greedy(reference, prompt, 12) for prompt in asked]
    engine.update_weights(1, tiny_policy(1).state_dict())
    engine.submit(GenerateRequest(asked[0], SamplingParams(max_new_tokens=5, top_p=0.9, top_k=20, seed=1)))
    assert [event.version for events in run(engine).values() for event in events] == [1] * 5
