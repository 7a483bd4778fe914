import json
from collections.abc import Callable

import httpx
import pytest

from cluster.contracts.errors import InputError, ResourceError
from serving.terminal_chat import chat_loop


def talk(lines: list[str], handler: Callable[[httpx.Request], httpx.Response], **options: object) -> str:
    """The screen after a conversation with a server made of `handler`."""
    waiting, screen = iter(lines), []

    def read_line() -> str:
        try:
            return next(waiting)
        except StopIteration:
            raise EOFError from None

    chat_loop(
        "http://server",
        "k" * 16,
        read_line=read_line,
        write=screen.append,
        transport=httpx.MockTransport(handler),
        **options,  # type: ignore[arg-type]
    )
    return "".join(screen)


class Server:
    """Answers with the number of messages it was sent, in two pieces."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, object]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == f"Bearer {'k' * 16}"
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "tiny"}]})
        self.bodies.append(json.loads(request.content))
        pieces = ["saw ", str(len(self.bodies[-1]["messages"]))]  # type: ignore[arg-type]
        events = [{"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]} for piece in pieces]
        lines = [f"data: {json.dumps(event)}\n\n" for event in events]
        return httpx.Response(200, text="".join([*lines, "data: [DONE]\n\n"]))


def test_answers_are_shown_and_remembered_until_reset() -> None:
    server = Server()
    screen = talk(["hi", "", "and?", "/reset", "again", "/quit", "never"], server, system="be kind")
    assert "chatting with tiny" in screen
    assert "saw 2" in screen
    assert "saw 4" in screen
    assert [len(body["messages"]) for body in server.bodies] == [2, 4, 2]  # type: ignore[arg-type]
    assert server.bodies[1]["messages"] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "saw 2"},
        {"role": "user", "content": "and?"},
    ]


def test_the_end_of_input_ends_the_chat_and_unknown_commands_show_help() -> None:
    server = Server()
    assert talk(["/what"], server).count("/quit leaves") == 2
    assert not server.bodies


def test_a_failed_answer_is_shown_and_its_question_forgotten() -> None:
    server = Server()
    failures = iter([True, False])

    def flaky(request: httpx.Request) -> httpx.Response:
        if request.method == "POST" and next(failures):
            return httpx.Response(429, json={"error": {"message": "busy now"}})
        return server(request)

    screen = talk(["one", "two"], flaky)
    assert "(busy now)" in screen
    assert [m["content"] for m in server.bodies[0]["messages"]] == ["two"]  # type: ignore[attr-defined]


def test_an_error_in_the_middle_of_a_stream_is_shown() -> None:
    def broken(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"data": [{"id": "tiny"}]})
        return httpx.Response(200, text='data: {"error": {"message": "gave up"}}\n\n')

    assert "(gave up)" in talk(["hi"], broken)


def test_an_absent_server_and_a_refused_key_are_said_plainly() -> None:
    def absent(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(ResourceError, match="no server answers at http://server"):
        talk([], absent)
    with pytest.raises(InputError, match="refuses the API key: wrong"):
        talk([], lambda _: httpx.Response(401, json={"error": {"message": "wrong"}}))
