"""Chat in a terminal with a server that speaks OpenAI's API: the core of `raymill chat`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import orjson

from cluster.contracts.errors import InputError, ResourceError
from cluster.contracts.records import Message

HELP = "/reset forgets the conversation, /quit leaves"


def chat_loop(
    base_url: str,
    key: str | None,
    *,
    read_line: Callable[[], str],
    write: Callable[[str], None],
    model: str | None = None,
    system: str | None = None,
    temperature: float = 1.0,
    max_tokens: int | None = None,
    timeout_s: float = 300.0,
    transport: httpx.BaseTransport | None = None,
) -> None:
    """Read lines, stream answers, remember the conversation, until `/quit` or the end of input.

    Args:
        base_url: the server, without `/v1`.
        key: its API key; None where it asks for none.
        read_line: gives the user's next line; raises `EOFError` at the end.
        write: shows text as it comes, without a newline of its own.
        system: the conversation's first message.
        transport: how to reach the server, for tests; None: the network.

    An answer that fails is reported, and its question forgotten; the chat goes on. Raises `ResourceError` where
    the server can't be reached at the start and `InputError` where it refuses the key.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    opening: list[Message] = [{"role": "system", "content": system}] if system is not None else []
    settings = {"model": model, "temperature": temperature, "max_tokens": max_tokens, "stream": True}
    with httpx.Client(base_url=base_url, headers=headers, timeout=timeout_s, transport=transport) as client:
        write(f"chatting with {_served_model(client, base_url)}; {HELP}\n")
        history = list(opening)
        while True:
            write("\n> ")
            try:
                line = read_line().strip()
            except EOFError:
                return
            if line == "/quit":
                return
            if line == "/reset":
                history = list(opening)
                write("(the conversation begins anew)\n")
            elif line.startswith("/"):
                write(f"{HELP}\n")
            elif line:
                asked: list[Message] = [*history, {"role": "user", "content": line}]
                answer = _show_answer(client, {**settings, "messages": asked}, write)
                if answer is not None:
                    history = [*asked, {"role": "assistant", "content": answer}]


def _served_model(client: httpx.Client, base_url: str) -> str:
    try:
        response = client.get("/v1/models")
    except httpx.HTTPError as error:
        raise ResourceError(f"no server answers at {base_url} ({error}); `raymill serve RUN` starts one") from error
    if response.status_code == 401:
        raise InputError(f"{base_url} refuses the API key: {_message(response.content)}")
    if response.status_code != 200:
        raise InputError(f"{base_url} is no OpenAI-compatible server: GET /v1/models gave {response.status_code}")
    return str(response.json()["data"][0]["id"])


def _show_answer(client: httpx.Client, body: dict[str, Any], write: Callable[[str], None]) -> str | None:
    """The whole answer, shown while it came; None where it failed, which is shown too."""
    answer = ""
    try:
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                write(f"({_message(response.read())})\n")
                return None
            for event in _events(response):
                if "error" in event:
                    write(f"\n({event['error']['message']})\n")
                    return None
                for choice in event["choices"]:
                    text = choice["delta"].get("content", "")
                    write(text)
                    answer += text
    except httpx.HTTPError as error:
        write(f"\n(the answer broke off: {error})\n")
        return None
    write("\n")
    return answer


def _events(response: httpx.Response) -> Iterator[Any]:
    for line in response.iter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield orjson.loads(line.removeprefix("data: "))


def _message(content: bytes) -> str:
    try:
        return str(orjson.loads(content)["error"]["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return content.decode(errors="replace")[:200]
