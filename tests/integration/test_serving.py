"""Policy and reward servers on a real local Ray: rollouts through handles, and HTTP on a real port."""

import contextlib
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import ray
import torch
from ray import serve
from transformers import AutoTokenizer

from cluster.contracts.commit import committed_parts
from cluster.contracts.errors import InputError, ResourceError, StageFailed
from cluster.contracts.records import GenerateRequest, Rollout, SamplingParams
from serving.config import HttpLimits, ServerConfig
from serving.deploy import serve_is_running
from serving.engine.reward_batches import score_sequences
from serving.engine.torch_engine import TorchEngine
from serving.http_gateway import serve_models
from serving.rollout_client import RolloutServers, ServeRolloutClient, rollout_servers
from serving.terminal_chat import chat_loop
from tests.unit.serving.tiny_models import save_policy, save_reward_model, tiny_policy

KEY = "integration-test-key"
END = 2  # <|im_end|>
SMALL = ServerConfig(cpus=0.25, health_check_period_s=1.0, bucket_mib=1, update_timeout_s=30, request_timeout_s=60)
HELLO = [{"role": "user", "content": "hello there"}]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Model directories, and the models in them."""
    root = tmp_path_factory.mktemp("models")
    # 3 MB of weights are more than one bucket; 4,096 positions make an answer that takes a while.
    policy = save_policy(root / "policy", hidden_size=256, max_position_embeddings=4096)
    reward = save_reward_model(root / "reward")
    return {"policy_uri": str(root / "policy"), "reward_uri": str(root / "reward"), "policy": policy, "reward": reward}


def requests(count: int, length: int = 12) -> list[GenerateRequest]:
    return [
        GenerateRequest(
            [3 + i % 7, *range(5, 5 + i % 5)], SamplingParams(max_new_tokens=length, stop_token_ids=(END,), seed=i)
        )
        for i in range(count)
    ]


def other_policy(seed: int, models: dict[str, Any]) -> Any:
    settings = {"vocab_size": models["policy"].config.vocab_size, "hidden_size": 256, "max_position_embeddings": 4096}
    return tiny_policy(seed, **settings)


def answers_of(model: Any, asked: list[GenerateRequest]) -> list[list[int]]:
    """What an engine in this process answers."""
    engine = TorchEngine(model)
    ids = [engine.submit(request) for request in asked]
    answers: dict[int, list[int]] = {i: [] for i in ids}
    while events := engine.step():
        for event in events:
            answers[event.request_id].append(event.token_id)
    return [answers[i] for i in ids]


def same_answers(rollouts: list[Rollout], expected: list[list[int]]) -> None:
    """Batches of another size may differ in the last bit, and so, rarely, in a token: allow one in twenty."""
    same = [rollout.answer_ids_A.tolist() == answer for rollout, answer in zip(rollouts, expected, strict=True)]
    assert np.mean(same) >= 0.95


def replicas(client: ServeRolloutClient) -> dict[str, Any]:
    """The live policy replicas by name."""
    handle = serve.get_app_handle(client.policy_app)
    described = handle.broadcast("describe").results(timeout_s=30, return_exceptions=True)
    return {d.replica_name: d for d in described if not isinstance(d, Exception)}


@contextlib.contextmanager
def within(seconds: float, what: str) -> Iterator[Any]:
    """Yields a function that is False once the time is over, after a short sleep."""
    deadline = time.monotonic() + seconds

    def more() -> bool:
        if time.monotonic() > deadline:
            pytest.fail(f"{what} took more than {seconds} s")
        time.sleep(0.1)
        return True

    yield more


class TestRollouts:
    @pytest.fixture(scope="class")
    def weights_uri(self, tmp_path_factory: pytest.TempPathFactory) -> str:
        return str(tmp_path_factory.mktemp("weights") / "published")

    @pytest.fixture(scope="class")
    def client(self, local_ray: None, models: dict[str, Any], weights_uri: str) -> Iterator[ServeRolloutClient]:
        """Two policy replicas and one reward replica, taken down by an exception."""
        servers = rollout_servers(
            models["policy_uri"],
            models["reward_uri"],
            policy=SMALL.model_copy(update={"num_replicas": 2}),
            reward=SMALL,
            weights_uri=weights_uri,
        )
        client = servers.__enter__()
        yield client
        assert not servers.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        assert not serve_is_running()
        assert not Path(weights_uri).exists()
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(client.store.current_number.remote())

    def test_answers_come_in_order_and_equal_an_engine_in_this_process(
        self, client: ServeRolloutClient, models: dict[str, Any]
    ) -> None:
        asked = requests(24)
        rollouts = client.generate(asked)
        same_answers(rollouts, answers_of(models["policy"], asked))
        for request, rollout in zip(asked, rollouts, strict=True):
            assert rollout.prompt_ids_P.tolist() == list(request.prompt_ids)
            assert rollout.versions_A.tolist() == [0] * len(rollout.answer_ids_A)
            assert (rollout.finish_reason == "stop") == (rollout.answer_ids_A[-1] == END)
        assert client.generate([]) == []

    def test_scores_equal_the_models_own(self, client: ServeRolloutClient, models: dict[str, Any]) -> None:
        sequences = [[*range(1, 2 + i % 9), i] for i in range(20)]
        expected = score_sequences(models["reward"], sequences, max_batch_size=1, max_batch_tokens=1)
        assert client.score(sequences) == pytest.approx(expected, abs=1e-5)

    def test_a_request_that_cannot_be_answered_says_why_without_a_stack_trace(self, client: ServeRolloutClient) -> None:
        with pytest.raises(InputError, match="outside of 0") as raised:
            client.generate([*requests(2), GenerateRequest([10**6])])
        assert "Traceback" not in str(raised.value)

    def test_published_weights_answer_at_once_on_every_replica(
        self, client: ServeRolloutClient, models: dict[str, Any]
    ) -> None:
        new = other_policy(11, models)
        client.publish(5, new.state_dict())
        assert [d.version for d in replicas(client).values()] == [5, 5]
        asked = requests(24)
        rollouts = client.generate(asked)
        assert {int(version) for rollout in rollouts for version in rollout.versions_A} == {5}
        same_answers(rollouts, answers_of(new, asked))

    def test_weights_published_in_mid_answer_make_its_later_tokens(
        self, client: ServeRolloutClient, models: dict[str, Any]
    ) -> None:
        before, after = other_policy(11, models), other_policy(12, models)
        long = [replace(r, sampling=replace(r.sampling, temperature=0.0)) for r in requests(8, length=240)]
        with ThreadPoolExecutor() as pool:
            answers = pool.submit(client.generate, long)
            time.sleep(0.1)
            client.publish(6, after.state_dict())
            rollouts = answers.result()
        switched = [r for r in rollouts if set(r.versions_A.tolist()) == {5, 6}]
        assert switched, "the update came too late or too early to be seen"
        for rollout in switched[:2]:
            cut = int((rollout.versions_A == 5).sum())
            assert rollout.versions_A.tolist() == [5] * cut + [6] * (len(rollout.versions_A) - cut)
            prompt, answer = rollout.prompt_ids_P.tolist(), rollout.answer_ids_A.tolist()
            for model, upto, part in ((before, 0, answer[:cut]), (after, cut, answer[cut : cut + 20])):
                with torch.no_grad():
                    logits = model(torch.tensor([[*prompt, *answer[:upto], *part]])).logits[0]
                start = len(prompt) + upto - 1
                logprobs = torch.log_softmax(logits[start : start + len(part)], -1)
                made = torch.tensor(rollout.logprobs_A[upto : upto + len(part)])
                torch.testing.assert_close(
                    logprobs[torch.arange(len(part)), torch.tensor(part)], made, atol=1e-4, rtol=0
                )

    def test_a_publisher_may_die_and_a_killed_replica_comes_back_with_the_newest_weights(
        self, client: ServeRolloutClient, models: dict[str, Any], weights_uri: str
    ) -> None:
        @ray.remote(num_cpus=0.25)
        class Trainer:
            def publish(self, client: ServeRolloutClient, state: dict[str, torch.Tensor]) -> None:
                client.publish(7, state)

        new = other_policy(13, models)
        trainer = Trainer.remote()
        ray.get(trainer.publish.remote(client, new.state_dict()))
        ray.kill(trainer)

        victim = next(iter(replicas(client).values()))
        os.kill(victim.pid, signal.SIGKILL)
        asked = requests(24)
        same_answers(client.generate(asked), answers_of(new, asked))  # calls lost with the replica are sent again
        with within(40, "the replica's restart") as more:
            while len(live := replicas(client)) < 2 or victim.replica_name in live:
                more()
        assert [d.version for d in live.values()] == [7, 7]
        same_answers(client.generate(asked), answers_of(new, asked))
        with within(10, "writing the weights to storage") as more:
            while [part.metrics["version"] for part in committed_parts(weights_uri).values()] != [7]:
                more()

    def test_weights_of_another_model_are_refused_and_the_ones_before_stay(
        self, client: ServeRolloutClient, models: dict[str, Any]
    ) -> None:
        before = client.generate(requests(4))
        with pytest.raises(StageFailed, match="refused version 8: these weights are not this model's") as raised:
            client.publish(8, {"nonsense": torch.zeros(3)})
        assert "Traceback" not in str(raised.value)
        after = client.generate(requests(4))
        assert [r.answer_ids_A.tolist() for r in after] == [r.answer_ids_A.tolist() for r in before]
        assert {int(v) for r in after for v in r.versions_A} == {7}

    def test_a_replica_that_does_not_switch_in_time_is_named(
        self, client: ServeRolloutClient, models: dict[str, Any]
    ) -> None:
        frozen = next(iter(replicas(client).values()))
        os.kill(frozen.pid, signal.SIGSTOP)
        try:
            impatient = replace(client, update_timeout_s=2.0, _handles={})
            with pytest.raises(StageFailed, match=f"{frozen.replica_name}.* did not switch to version 9"):
                impatient.publish(9, models["policy"].state_dict())
        finally:
            os.kill(frozen.pid, signal.SIGCONT)
        rollouts = client.generate(requests(16))  # whoever was late catches up before it answers
        assert {int(v) for r in rollouts for v in r.versions_A} == {9}

    def test_the_weight_store_comes_back_with_the_weights_on_storage(
        self, client: ServeRolloutClient, models: dict[str, Any], weights_uri: str
    ) -> None:
        new = other_policy(14, models)
        client.publish(10, new.state_dict())
        with within(10, "writing the weights to storage") as more:
            while [part.metrics["version"] for part in committed_parts(weights_uri).values()] != [10]:
                more()
        ray.kill(client.store, no_restart=False)
        stored = ray.get(client.store.current.remote(), timeout=30)
        assert stored.version == 10
        client.publish(11, other_policy(15, models).state_dict())
        assert {int(v) for r in client.generate(requests(8)) for v in r.versions_A} == {11}


class TestHttp:
    @pytest.fixture(scope="class")
    def url(self, local_ray: None, models: dict[str, Any]) -> Iterator[str]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with serve_models(
            models["policy_uri"],
            models["reward_uri"],
            policy=SMALL.model_copy(update={"max_ongoing_requests": 2, "max_queued_requests": 1}),
            reward=SMALL,
            port=port,
            keys=[KEY],
            limits=HttpLimits(retry_after_s=7, max_body_bytes=4096, default_max_tokens=20),
        ) as url:
            yield url
        assert not serve_is_running()

    @pytest.fixture
    def http(self, url: str) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as client:
            yield client

    def test_strangers_are_turned_away(self, url: str) -> None:
        assert httpx.get(f"{url}/v1/models").status_code == 401
        wrong = {"Authorization": "Bearer wrong-key-of-some-length"}
        assert httpx.post(f"{url}/v1/score", json={"messages": HELLO}, headers=wrong).status_code == 401
        assert httpx.get(f"{url}/healthz").status_code == 200

    def test_chat_and_its_stream_give_the_same_answer(self, http: httpx.Client) -> None:
        asked = {"messages": HELLO, "seed": 4, "max_tokens": 30}
        whole = http.post("/v1/chat/completions", json=asked)
        assert whole.status_code == 200
        with http.stream("POST", "/v1/chat/completions", json={**asked, "stream": True}) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = [line for line in response.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        assert text == whole.json()["choices"][0]["message"]["content"]
        assert len(chunks) > 5

    def test_scores_of_a_conversation_are_the_reward_models(self, http: httpx.Client, models: dict[str, Any]) -> None:
        conversation = [*HELLO, {"role": "assistant", "content": "fine"}]
        tokenizer = AutoTokenizer.from_pretrained(models["reward_uri"])
        ids = tokenizer.apply_chat_template(conversation, return_dict=False)
        ids = ids[: len(ids) - ids[::-1].index(tokenizer.eos_token_id)]
        (expected,) = score_sequences(models["reward"], [ids], max_batch_size=1, max_batch_tokens=1)
        body = http.post("/v1/score", json={"messages": conversation}).json()
        assert body["data"][0]["score"] == pytest.approx(expected, abs=1e-5)

    def test_errors_have_openais_shape(self, http: httpx.Client) -> None:
        for body, status in (
            ({"messages": HELLO, "model": "gpt-9"}, 404),
            ({"messages": HELLO, "max_tokens": 5000}, 400),
            ({"messages": "hi"}, 400),
            ({"messages": [{"role": "user", "content": "x" * 5000}]}, 413),
        ):
            response = http.post("/v1/chat/completions", json=body)
            assert response.status_code == status
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        bad_token = http.post("/v1/completions", json={"prompt": [10**6]})
        assert bad_token.status_code == 400
        assert "Traceback" not in bad_token.json()["error"]["message"]

    def test_an_overload_is_429_with_retry_after_and_passes(self, http: httpx.Client) -> None:
        asked = {"messages": HELLO, "max_tokens": 200}
        with ThreadPoolExecutor(12) as pool:
            calls = [pool.submit(http.post, "/v1/chat/completions", json=asked) for _ in range(12)]
            responses = [call.result() for call in calls]
        statuses = [response.status_code for response in responses]
        assert set(statuses) == {200, 429}
        for response in responses:
            if response.status_code == 429:
                assert response.headers["retry-after"] == "7"
                assert "try again" in response.json()["error"]["message"]
        assert http.post("/v1/chat/completions", json={**asked, "max_tokens": 2}).status_code == 200

    def test_a_client_that_leaves_frees_the_replica(self, http: httpx.Client, models: dict[str, Any]) -> None:
        load = serve.get_app_handle("http-policy").load
        greedy = SamplingParams(max_new_tokens=200, temperature=0.0, stop_token_ids=(END,))
        prompts = [[token] for token in range(3, 15)]
        answers = answers_of(models["policy"], [GenerateRequest(prompt, greedy) for prompt in prompts])
        endless = next(p for p, answer in zip(prompts, answers, strict=True) if len(answer) == 200)
        asked = {"prompt": endless, "max_tokens": 4000, "temperature": 0, "stream": True}  # over 4 s of work
        with http.stream("POST", "/v1/completions", json=asked) as response:
            assert response.status_code == 200, response.read()
            chunks = response.iter_bytes()  # kept: httpx closes the connection with its iterator
            next(chunks)
            assert load.remote().result(timeout_s=10).num_running == 1
        with within(2, "cancelling the request") as more:
            while load.remote().result(timeout_s=10).num_running:
                more()

    def test_the_terminal_chat_works_against_the_server(self, url: str) -> None:
        lines, screen = iter(["hello", "/quit"]), []
        chat_loop(url, KEY, read_line=lambda: next(lines), write=screen.append, max_tokens=10)
        assert "chatting with policy" in screen[0]
        assert len("".join(screen)) > len(screen[0]) + 5
        with pytest.raises(InputError, match="refuses the API key"):
            chat_loop(url, None, read_line=lambda: "/quit", write=screen.append)

    def test_a_second_server_on_the_same_ray_or_port_is_refused(self, url: str, models: dict[str, Any]) -> None:
        port = int(url.rsplit(":", 1)[1])
        with (
            pytest.raises(ResourceError, match=f"can't listen on 127.0.0.1:{port}"),
            serve_models(models["policy_uri"], port=port),
        ):
            pass
        with pytest.raises(ResourceError, match="already runs"), serve_models(models["policy_uri"], port=0):
            pass


def test_an_open_address_without_keys_is_refused(local_ray: None, models: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="no API keys"), serve_models(models["policy_uri"], host="0.0.0.0", port=0):
        pass


def test_servers_started_before_their_models_are_there_load_them_once_they_are(
    local_ray: None, models: dict[str, Any], tmp_path: Path
) -> None:
    later = {role: str(tmp_path / role) for role in ("policy", "reward")}
    servers = RolloutServers(later["policy"], later["reward"], policy=SMALL, reward=SMALL, name="ahead")
    try:
        servers.start(ahead=True)
        with pytest.raises(InputError, match="no model directory"):
            servers.check_models()
        for role, directory in later.items():
            shutil.copytree(models[f"{role}_uri"], directory)
        servers.check_models()
        client = servers.ready()
        asked = requests(4)
        same_answers(client.generate(asked), answers_of(models["policy"], asked))
        assert len(client.score([[3, 4], [5]])) == 2
    finally:
        servers.close()
    assert not serve_is_running()


def test_what_cannot_be_started_is_refused_before_anything_starts(local_ray: None, models: dict[str, Any]) -> None:
    big = SMALL.model_copy(update={"num_replicas": 100, "cpus": 1.0})
    started = threading.active_count()
    with (
        pytest.raises(ResourceError, match=r"need 100.25 CPUs \(policy 100, reward 0.25\)"),
        rollout_servers(models["policy_uri"], models["reward_uri"], policy=big, reward=SMALL),
    ):
        pass
    with (
        pytest.raises(InputError, match="no model directory"),
        rollout_servers(models["policy_uri"] + "x", models["reward_uri"], policy=SMALL, reward=SMALL),
    ):
        pass
    assert not serve_is_running()
    assert threading.active_count() <= started + 1
