"""What a request must pass before it is read: checks of its API key and of its body's size. Plain ASGI middleware."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.openai_api.api_keys import is_authorized
from serving.openai_api.errors import ApiError


class KeyGuard:
    """Answers 401 to requests without one of the keys. No digests: everybody may pass."""

    def __init__(self, app: ASGIApp, digests: Sequence[bytes], open_paths: frozenset[str]) -> None:
        self._app, self._digests, self._open_paths = app, digests, open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        guarded = scope["type"] == "http" and self._digests and scope["path"] not in self._open_paths
        if guarded and not is_authorized(Headers(scope=scope).get("authorization"), self._digests):
            error = ApiError(401, "an API key is needed: 'Authorization: Bearer KEY'", code="invalid_api_key")
            await error.response({"WWW-Authenticate": "Bearer"})(scope, receive, send)
            return
        await self._app(scope, receive, send)


class BodyLimit:
    """Answers 413 to bodies larger than `max_bytes`, whether they say so or not."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        body: list[Message] = []
        size = 0 if not declared.isdigit() else int(declared)
        received = 0
        while size <= self._max_bytes:
            message = await receive()
            body.append(message)
            received += len(message.get("body", b""))
            size = max(size, received)
            if message["type"] != "http.request" or not message.get("more_body", False):
                break
        if size > self._max_bytes:
            error = ApiError(413, f"the body is larger than {self._max_bytes} bytes", code="body_too_large")
            await error.response({"Connection": "close"})(scope, receive, send)
            return

        async def replay() -> Message:
            return body.pop(0) if body else await receive()

        await self._app(scope, replay, send)
