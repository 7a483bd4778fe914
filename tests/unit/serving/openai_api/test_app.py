"""The HTTP app over an engine in this process: no Ray, no port."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

import httpx
import pytest
import torch
from transformers import LlamaForSequenceClassification

from cluster.contracts.chat.encoder import ChatEncoder
from cluster.contracts.records import GenerateRequest, Rollout, SamplingParams
from serving.config import HttpLimits
from serving.engine.loop import EngineLoop
from serving.engine.protocol import TokenEvent
from serving.engine.reward_batches import score_sequences
from serving.engine.torch_engine import TorchEngine
from serving.openai_api.api_keys import key_digests
from serving.openai_api.app import build_app
from serving.openai_api.backend import AppSettings
from serving.openai_api.errors import Overloaded
from tests.unit.serving.tiny_models import llama_config, tiny_policy, tiny_tokenizer

KEY = "0123456789abcdef"
HELLO = [{"role": "user", "content": "hello there"}]
LIMITS = HttpLimits(max_body_bytes=2048, default_max_tokens=8, max_choices=4, request_timeout_s=20, retry_after_s=3)


class LocalBackend:
    """An engine and a reward model in this process."""

    def __init__(self, policy: Any, reward: Any) -> None:
        self.loop = EngineLoop(TorchEngine(policy, max_model_len=128))
        self.reward = reward
        self.overloaded = False
        self.streams_closed_early = 0

    async def max_model_len(self) -> int:
        return 128

    async def generate(self, requests: Sequence[GenerateRequest]) -> list[Rollout]:
        if self.overloaded:
            raise Overloaded("full")
        return await asyncio.gather(*(self.loop.generate(request) for request in requests))

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[TokenEvent, None]:
        if self.overloaded:
            raise Overloaded("full")
        finished = False
        try:
            async for event in self.loop.stream(request):
                finished = event.finish_reason is not None
                yield event
        finally:
            self.streams_closed_early += not finished

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        return score_sequences(self.reward, sequences, max_batch_size=8, max_batch_tokens=1000)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture
def backend(tokenizer: Any) -> Iterator[LocalBackend]:
    torch.manual_seed(1)
    reward = LlamaForSequenceClassification(llama_config(vocab_size=len(tokenizer), num_labels=1)).eval()
    backend = LocalBackend(tiny_policy(vocab_size=len(tokenizer)), reward)
    yield backend
    backend.loop.stop()


class Client:
    """Synchronous calls on the app."""

    def __init__(self, app: Any, headers: dict[str, str]) -> None:
        self._app, self._headers = app, headers

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def call() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://t", headers=self._headers) as client:
                return await client.request(method, path, **options)

        return asyncio.run(call())

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.request("POST", path, json=body)


@pytest.fixture
def client(backend: LocalBackend, tokenizer: Any) -> Client:
    return Client(build_app(backend, tokenizer, tokenizer, AppSettings("policy", "reward", (), LIMITS)), {})


def events_of(response: httpx.Response) -> list[Any]:
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def complaint(response: httpx.Response, status: int) -> str:
    error = response.json()["error"]
    assert response.status_code == status, error
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in error["message"]
    return str(error["message"])


def test_a_chat_answer_is_the_engines_answer_to_the_templated_prompt(
    client: Client, backend: LocalBackend, tokenizer: Any
) -> None:
    body = client.post("/v1/chat/completions", messages=HELLO, temperature=0, max_tokens=6, model="policy").json()
    prompt = ChatEncoder(tokenizer).encode_prompt(HELLO)
    rollout = asyncio.run(backend.loop.generate(GenerateRequest(prompt, SamplingParams(6, temperature=0))))
    expected = tokenizer.decode(rollout.answer_ids_A.tolist(), skip_special_tokens=True)
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": expected},
            "logprobs": None,
            "finish_reason": "length",
        }
    ]
    assert body["usage"] == {
        "prompt_tokens": len(prompt),
        "completion_tokens": 6,
        "total_tokens": len(prompt) + 6,
    }
    assert body["system_fingerprint"] == "policy-version-0"


@pytest.mark.parametrize("stop", [None, "e", ["zzz"]])
def test_a_stream_adds_up_to_the_whole_answer(client: Client, stop: Any) -> None:
    asked = {"messages": HELLO, "seed": 5, "max_tokens": 20, "stop": stop, "logprobs": True}
    whole = client.post("/v1/chat/completions", **asked).json()
    response = client.post("/v1/chat/completions", **asked, stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, usage = events_of(response)
    deltas = [chunk["choices"][0] for chunk in chunks]
    assert deltas[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(d["delta"].get("content", "") for d in deltas) == whole["choices"][0]["message"]["content"]
    assert [d["finish_reason"] for d in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1]["finish_reason"] == whole["choices"][0]["finish_reason"]
    streamed = [entry for d in deltas[1:] if d["logprobs"] for entry in d["logprobs"]["content"]]
    assert [e["token"] for e in streamed] == [e["token"] for e in whole["choices"][0]["logprobs"]["content"]]
    assert usage["choices"] == []
    assert usage["usage"] == whole["usage"]


def test_a_stop_string_ends_generation_too(client: Client, backend: LocalBackend) -> None:
    text = client.post("/v1/completions", prompt="hello", temperature=0, max_tokens=40).json()["choices"][0]["text"]
    stop = text[len(text) // 2 : len(text) // 2 + 2]
    body = client.post("/v1/completions", prompt="hello", temperature=0, max_tokens=40, stop=stop).json()
    assert body["choices"][0]["text"] == text[: text.index(stop)]
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] < 40
    assert backend.streams_closed_early == 1


def test_n_choices_and_several_prompts_come_in_order(client: Client) -> None:
    asked = {"prompt": ["hello", "how are"], "n": 2, "seed": 3, "max_tokens": 5, "logprobs": 0}
    body = client.post("/v1/completions", **asked).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert len({choice["text"] for choice in body["choices"]}) == 4
    again = client.post("/v1/completions", **asked).json()
    assert again["usage"] == body["usage"]
    for first, second in zip(body["choices"], again["choices"], strict=True):
        # The answers are a function of the seed; the last bits of their probabilities are one of who shared the batch.
        assert second["text"] == first["text"]
        assert second["logprobs"]["token_logprobs"] == pytest.approx(first["logprobs"]["token_logprobs"], abs=1e-5)
    assert all(len(choice["logprobs"]["token_logprobs"]) == 5 for choice in body["choices"])
    streamed = ["", "", "", ""]
    for chunk in events_of(client.post("/v1/completions", **asked, stream=True)):
        streamed[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert streamed == [choice["text"] for choice in body["choices"]]


def test_token_ids_are_taken_as_a_prompt(client: Client, tokenizer: Any) -> None:
    ids = tokenizer("hello there")["input_ids"]
    by_ids = client.post("/v1/completions", prompt=ids, seed=1).json()
    by_text = client.post("/v1/completions", prompt="hello there", seed=1).json()
    assert by_ids["choices"] == by_text["choices"]
    assert by_ids["usage"]["completion_tokens"] == LIMITS.default_max_tokens


def test_scores_are_those_of_the_conversations_up_to_their_last_turn(
    client: Client, backend: LocalBackend, tokenizer: Any
) -> None:
    conversations = [[*HELLO, {"role": "assistant", "content": text}] for text in ("fine", "the lazy dog jumps")]
    body = client.post("/v1/score", conversations=conversations).json()
    sequences = [ChatEncoder(tokenizer).encode_finished(c) for c in conversations]
    expected = score_sequences(backend.reward, sequences, max_batch_size=1, max_batch_tokens=1)
    assert [entry["score"] for entry in body["data"]] == pytest.approx(expected, abs=1e-5)
    one = client.post("/v1/score", messages=conversations[1], model="reward").json()
    assert one["data"][0]["score"] == pytest.approx(expected[1], abs=1e-5)


def test_models_are_listed_and_unknown_ones_are_404(client: Client) -> None:
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["policy", "reward"]
    assert "'gpt-9' is not here" in complaint(client.post("/v1/completions", prompt="a", model="gpt-9"), 404)
    assert "'policy' is not here" in complaint(client.post("/v1/score", messages=HELLO, model="policy"), 404)
    assert "Not Found" in complaint(client.get("/v1/nothing"), 404)


def test_without_a_reward_model_there_are_no_scores(backend: LocalBackend, tokenizer: Any) -> None:
    client = Client(build_app(backend, tokenizer, None, AppSettings("policy", None)), {})
    assert "no reward model" in complaint(client.post("/v1/score", messages=HELLO), 404)
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["policy"]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("chat/completions", {}, "messages"),
        ("chat/completions", {"messages": []}, "messages"),
        ("chat/completions", {"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
        ("chat/completions", {"messages": HELLO, "temperature": -1}, "temperature"),
        ("chat/completions", {"messages": HELLO, "tempreature": 1}, "tempreature"),
        ("chat/completions", {"messages": HELLO, "tools": [{"type": "function"}]}, "'tools' is not supported"),
        ("chat/completions", {"messages": HELLO, "presence_penalty": 0.5}, "'presence_penalty' is not supported"),
        ("chat/completions", {"messages": HELLO, "max_tokens": 0}, "max_tokens"),
        ("chat/completions", {"messages": HELLO, "max_tokens": 128}, "takes 128 together"),
        ("chat/completions", {"messages": HELLO, "n": 5}, "at most 4"),
        ("chat/completions", {"messages": HELLO, "stop": ["a"] * 5}, "up to 4 strings"),
        ("completions", {"prompt": ""}, "prompt is empty"),
        ("completions", {"prompt": []}, "prompt is empty"),
        ("completions", {"prompt": [999_999]}, "outside of 0"),
        ("completions", {"prompt": "the quick brown fox " * 40}, "takes 128 together"),
        ("score", {}, "either 'messages'"),
        ("score", {"conversations": [HELLO] * 5}, "at most 4"),
        ("score", {"messages": [{"role": "user", "content": "lazy dog " * 200}]}, "the reward model takes 256"),
    ],
)
def test_bad_requests_are_400_and_say_what_to_change(
    client: Client, path: str, body: dict[str, Any], message: str
) -> None:
    assert message in complaint(client.post(f"/v1/{path}", **body), 400)


def test_settings_at_their_off_value_are_taken(client: Client) -> None:
    off = {"frequency_penalty": 0, "presence_penalty": 0.0, "tools": None, "user": "me", "logit_bias": {}}
    assert client.post("/v1/chat/completions", messages=HELLO, max_tokens=1, **off).status_code == 200


def test_broken_json_is_400(client: Client) -> None:
    response = client.request(
        "POST", "/v1/completions", content=b'{"prompt": ', headers={"content-type": "application/json"}
    )
    assert "JSON" in complaint(response, 400)


def test_large_bodies_are_413_declared_or_not(client: Client) -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        for _ in range(30):
            yield b" " * 100

    assert "2048 bytes" in complaint(client.post("/v1/completions", prompt="x" * 3000), 413)
    assert "2048 bytes" in complaint(client.request("POST", "/v1/completions", content=chunks()), 413)


@pytest.mark.parametrize("stream", [False, True])
def test_an_overload_is_429_with_retry_after(client: Client, backend: LocalBackend, stream: bool) -> None:
    backend.overloaded = True
    response = client.post("/v1/chat/completions", messages=HELLO, stream=stream)
    assert "full" in complaint(response, 429)
    assert response.headers["retry-after"] == "3"


def test_keys_guard_everything_but_the_health_check(backend: LocalBackend, tokenizer: Any) -> None:
    app = build_app(backend, tokenizer, tokenizer, AppSettings("policy", "reward", key_digests([KEY]), LIMITS))
    stranger, friend = Client(app, {}), Client(app, {"Authorization": f"Bearer {KEY}"})
    for path in ("/v1/models", "/v1/nothing", "/openapi.json", "/docs"):
        response = stranger.get(path)
        complaint(response, 401)
        assert response.headers["www-authenticate"] == "Bearer"
    complaint(stranger.post("/v1/chat/completions", messages=HELLO), 401)
    complaint(Client(app, {"Authorization": f"Bearer {KEY}?"}).get("/v1/models"), 401)
    assert stranger.get("/healthz").json() == {"status": "ok"}
    assert friend.get("/v1/models").status_code == 200


def test_an_unexpected_failure_is_500_without_its_text(
    client: Client, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: Any) -> list[float]:
        raise RuntimeError("secret path")

    monkeypatch.setattr(backend, "score", fail)
    assert "secret" not in complaint(client.post("/v1/score", messages=HELLO), 500)


def test_an_answer_that_takes_too_long_is_504(backend: LocalBackend, tokenizer: Any) -> None:
    hasty = HttpLimits(request_timeout_s=0.001)
    client = Client(build_app(backend, tokenizer, tokenizer, AppSettings("policy", "reward", (), hasty)), {})
    complaint(client.post("/v1/completions", prompt="hello", max_tokens=100), 504)
