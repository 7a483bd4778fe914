import asyncio
import time
from collections.abc import Iterator

import pytest

from cluster.contracts.errors import InputError, StageFailed
from cluster.contracts.records import GenerateRequest, SamplingParams
from serving.engine.loop import EngineLoop
from serving.engine.torch_engine import TorchEngine
from tests.unit.serving.tiny_models import tiny_policy


@pytest.fixture
def loop() -> Iterator[EngineLoop]:
    loop = EngineLoop(TorchEngine(tiny_policy(), max_batch_size=8))
    yield loop
    loop.stop()


def request(seed: int, length: int = 10) -> GenerateRequest:
    return GenerateRequest([1 + seed, 2, 3], SamplingParams(max_new_tokens=length, seed=seed))


def test_concurrent_callers_get_the_answers_they_would_get_alone(loop: EngineLoop) -> None:
    async def together() -> list[list[int]]:
        rollouts = await asyncio.gather(*(loop.generate(request(seed)) for seed in range(12)))
        return [rollout.answer_ids_A.tolist() for rollout in rollouts]

    alone = [asyncio.run(loop.generate(request(seed))).answer_ids_A.tolist() for seed in range(12)]
    assert asyncio.run(together()) == alone


def test_a_rollout_carries_prompt_logprobs_and_versions(loop: EngineLoop) -> None:
    rollout = asyncio.run(loop.generate(request(3)))
    assert rollout.prompt_ids_P.tolist() == [4, 2, 3]
    assert rollout.logprobs_A.shape == rollout.versions_A.shape == rollout.answer_ids_A.shape == (10,)
    assert (rollout.logprobs_A < 0).all()
    assert rollout.versions_A.tolist() == [0] * 10
    assert rollout.finish_reason == "length"


def test_a_refused_request_raises_at_its_caller_only(loop: EngineLoop) -> None:
    async def both() -> tuple[object, object]:
        bad = loop.generate(GenerateRequest([]))
        return tuple(await asyncio.gather(loop.generate(request(0)), bad, return_exceptions=True))

    good, bad = asyncio.run(both())
    assert isinstance(bad, InputError)
    assert len(good.answer_ids_A) == 10


def test_new_weights_arrive_between_the_tokens_of_a_stream(loop: EngineLoop) -> None:
    async def versions() -> list[int]:
        seen = []
        async for event in loop.stream(request(0, length=200)):
            seen.append(event.version)
            if len(seen) == 3:
                await loop.update_weights(1, tiny_policy(1).state_dict())
        return seen

    seen = asyncio.run(versions())
    assert seen == sorted(seen)
    assert len(seen) == 200
    assert {0, 1} == set(seen)
    assert loop.version == 1


def test_leaving_a_stream_early_frees_its_row(loop: EngineLoop) -> None:
    async def leave() -> int:
        stream = loop.stream(request(0, length=200))
        await anext(stream)
        await stream.aclose()
        deadline = time.monotonic() + 5
        while (load := await loop.load()).num_running and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        return load.num_running

    assert asyncio.run(leave()) == 0


def test_an_engine_that_fails_fails_every_caller_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TorchEngine(tiny_policy())
    loop = EngineLoop(engine)
    monkeypatch.setattr(engine, "step", lambda: (_ for _ in ()).throw(MemoryError("no room")))

    async def both() -> list[object]:
        return await asyncio.gather(*(loop.generate(request(seed)) for seed in range(2)), return_exceptions=True)

    assert all(isinstance(result, MemoryError) for result in asyncio.run(both()))
    assert isinstance(loop.failure, MemoryError)
    with pytest.raises(MemoryError):
        asyncio.run(loop.generate(request(0)))
    loop.stop()


def test_stopping_ends_those_who_wait() -> None:
    loop = EngineLoop(TorchEngine(tiny_policy()))

    async def stop_midway() -> None:
        stream = loop.stream(request(0, length=250))
        await anext(stream)
        await asyncio.to_thread(loop.stop)
        async for _ in stream:
            pass

    with pytest.raises(StageFailed, match="stopped"):
        asyncio.run(stop_midway())


def test_a_caller_whose_event_loop_is_gone_does_not_harm_the_others(loop: EngineLoop) -> None:
    async def ask_and_leave() -> list[asyncio.Task[object]]:
        asked = [asyncio.create_task(loop.generate(request(1, length=200))), asyncio.create_task(loop.load())]
        await asyncio.sleep(0)
        return asked  # asyncio.run cancels them and closes the event loop while the engine is at work

    for _ in range(20):
        assert all(task.cancelled() for task in asyncio.run(ask_and_leave()))
    assert len(asyncio.run(loop.generate(request(2))).answer_ids_A) == 10
    assert loop.failure is None
