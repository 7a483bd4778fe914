"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`, and never a stack trace."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from cluster.contracts.errors import InputError

logger = logging.getLogger(__name__)


class Overloaded(Exception):
    """The servers behind the app take no more requests now."""


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.param, self.code = status, message, kind, param, code

    def body(self) -> dict[str, Any]:
        """The response's JSON."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self, headers: dict[str, str] | None = None) -> JSONResponse:
        """The whole response."""
        return JSONResponse(self.body(), status_code=self.status, headers=headers)


def check_model(asked: str | None, name: str) -> None:
    """Raises a 404 for a model that is not the one an endpoint serves."""
    if asked is not None and asked != name:
        raise ApiError(404, f"model {asked!r} is not here; this endpoint serves {name!r}", code="model_not_found")


def add_error_handlers(app: FastAPI, *, retry_after_s: int) -> None:
    """Give every error the same shape."""

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(InputError)
    async def input_error(_: Request, error: InputError) -> JSONResponse:
        return ApiError(400, str(error)).response()

    @app.exception_handler(RequestValidationError)
    async def validation_error(_: Request, error: RequestValidationError) -> JSONResponse:
        problems = []
        for problem in error.errors():
            path = ".".join(str(part) for part in problem["loc"] if part != "body")
            problems.append((path, problem["msg"].removeprefix("Value error, ")))
        message = "; ".join(f"{path}: {text}" if path else text for path, text in problems)
        return ApiError(400, message, param=problems[0][0] or None).response()

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path}: {error.detail}"
        return ApiError(error.status_code, message).response()

    @app.exception_handler(Overloaded)
    async def overloaded(_: Request, error: Overloaded) -> JSONResponse:
        headers = {"Retry-After": str(retry_after_s)}
        return ApiError(429, str(error), kind="rate_limit_error", code="overloaded").response(headers)

    @app.exception_handler(TimeoutError)
    async def timed_out(_: Request, __: TimeoutError) -> JSONResponse:
        return ApiError(504, "the answer took too long; ask for fewer tokens", kind="timeout").response()

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return ApiError(500, "the server failed; its log says how", kind="server_error").response()
