"""From what went wrong to a status code and one line of JSON: the only place that knows both."""

import logging
import re
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from app import errors, json_text

logger = logging.getLogger(__name__)

# The nearest ancestor that stands here counts.
_STATUS: dict[type[errors.FreshetError], int] = {
    errors.FreshetError: 500,
    errors.InvalidInput: 422,
    errors.TooLarge: 413,
    errors.NotFound: 404,
    errors.SessionErased: 404,
    errors.Conflict: 409,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.Unavailable: 503,
    errors.TooManyRequests: 429,
    errors.ModelFailed: 502,
    errors.ModelSilent: 504,
    errors.ModelNeeded: 501,
}

# Of a socket that ends for it. RFC 6455, section 7.4.1, and its registry: 1003 unsupported, 1008 not allowed, 1011 our failure,
# 1012 restarting, 1013 try again later.
_CLOSE_CODES: dict[type[errors.FreshetError], int] = {
    errors.FreshetError: 1011,
    errors.InvalidInput: 1003,
    errors.TooLarge: 1009,
    errors.NotFound: 1008,
    errors.SessionErased: 1008,
    errors.Unauthenticated: 1008,
    errors.Unavailable: 1013,
    errors.TooManyRequests: 1008,
    errors.ShuttingDown: 1012,
}

_CODES_OF_STATUS = {
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
}


# Their clients know 400 for whatever is not as it should be.
_CALLS_OF_SOCKETS = re.compile(r"(/api/v1)?/(refresh_)?token")
# Of JSON-RPC 2.0: a request that is none, and an error of ours.
_INVALID_REQUEST, _INTERNAL_ERROR = -32600, -32603

_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_OPENAI_CODES = {
    "unauthenticated": "invalid_api_key",
    "assistant_not_found": "model_not_found",
    "rate_limited": "rate_limit_exceeded",
    "budget_exhausted": "insufficient_quota",
}


class Problem(BaseModel):
    """How every failure looks. `code` is stable; `id` is the request's, as in the header `x-request-id`."""

    type: str = "error"
    code: str
    message: str
    error: str
    detail: Any = None
    id: str | None = None


class OpenAIFailure(BaseModel):
    """What went wrong, as OpenAI's servers tell it. `param` is the field that is not as it should be."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIProblem(BaseModel):
    """How every failure under /v1 looks."""

    error: OpenAIFailure


def problem(
    status: int,
    code: str,
    message: str,
    *,
    scope: Scope,
    detail: Any = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """In the form of the door that was knocked on."""
    is_openai = scope["path"].startswith("/v1/")
    if status == 422 and (is_openai or _CALLS_OF_SOCKETS.fullmatch(scope["path"])):
        status = 400
    if is_openai:
        body = openai_error(status, code, message, param=_param(detail))
    elif scope["path"].rstrip("/") == "/mcp":
        return jsonrpc_error(
            status, _INVALID_REQUEST if status < 500 else _INTERNAL_ERROR, code, message, headers=headers
        )
    else:
        body = {
            "type": "error",
            "code": code,
            "message": message,
            "error": message,
            "detail": detail,
            "id": scope.get("request_id"),
        }
    return Response(
        json_text.encode(body), status, {"cache-control": "no-store", **(headers or {})}, "application/json"
    )


def openai_error(status: int, code: str, message: str, *, param: str | None = None) -> dict[str, Any]:
    """As OpenAI's servers tell it; its clients choose their exception by the status."""
    kind = "server_error" if status >= 500 else _OPENAI_TYPES.get(status, "invalid_request_error")
    told = _OPENAI_CODES.get(code, code)
    kind = told if told == "insufficient_quota" else kind
    param = "model" if told == "model_not_found" else param
    return {"error": {"message": message, "type": kind, "param": param, "code": told}}


def jsonrpc_error(
    status: int, number: int, code: str, message: str, *, headers: dict[str, str] | None = None
) -> Response:
    """As MCP has it where a message could not be read far enough to know its id: `number` is JSON-RPC's, `code` ours."""
    error = {"code": number, "message": message, "data": {"code": code}}
    body = {"jsonrpc": "2.0", "id": None, "error": error}
    return Response(
        json_text.encode(body), status, {"cache-control": "no-store", **(headers or {})}, "application/json"
    )


def _param(detail: Any) -> str | None:
    """The first field that is not as it should be, as `messages.0.content`."""
    match detail:
        case [{"loc": ["body" | "query" | "path", *path]}, *_] if path:
            return ".".join(cast("list[str]", path))
        case _:
            return None


def add_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(errors.FreshetError, _expected)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _of_the_framework)


def status_of(error: errors.FreshetError) -> int:
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


def close_code_of(error: errors.FreshetError) -> int:
    return next(_CLOSE_CODES[kind] for kind in type(error).__mro__ if kind in _CLOSE_CODES)


def code_of(error: errors.FreshetError) -> str:
    """Told apart further than in our own API, as OpenAI's tells a model that is not there from all else."""
    return f"{error.kind}_not_found" if isinstance(error, errors.NotFound) else error.code


def headers_of(error: errors.FreshetError) -> dict[str, str]:
    if isinstance(error, errors.BudgetExhausted):
        # OpenAI's clients would try again after some seconds, which cannot help.
        return {"retry-after": str(error.retry_after_s), "x-should-retry": "false"}
    if isinstance(error, errors.Unavailable):
        return {"retry-after": str(error.retry_after_s)}
    if isinstance(error, errors.Unauthenticated):
        return {"www-authenticate": "Bearer"}
    return {}


async def _expected(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.FreshetError)
    status = status_of(error)
    if status >= 500:
        logger.warning("%s: %s", error.code, error.message, exc_info=error.__cause__)
    return problem(
        status,
        code_of(error) if request.url.path.startswith("/v1/") else error.code,
        error.message,
        scope=request.scope,
        detail=error.detail,
        headers=headers_of(error),
    )


async def _malformed(request: Request, error: Exception) -> Response:
    """What was sent is not repeated: it may hold secrets, or text that no JSON can carry."""
    assert isinstance(error, RequestValidationError)
    detail = [
        {"loc": [str(part) for part in item["loc"]], "message": item["msg"], "type": item["type"]}
        for item in error.errors()
    ]
    where = ".".join(detail[0]["loc"]) if detail else "body"
    message = (
        f"The request is not as it should be: {where}: {detail[0]['message'] if detail else 'unreadable'}."
    )
    return problem(422, "invalid_input", message, scope=request.scope, detail=detail)


async def _of_the_framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # A body that cannot be parsed at all is malformed like any other.
    status = 422 if error.status_code == 400 else error.status_code
    code = _CODES_OF_STATUS.get(status, "invalid_input" if status < 500 else "internal_error")
    message = f"{error.detail}."
    headers = dict(error.headers or {})
    if status == 405:
        headers["allow"] = ", ".join(_methods_of(request))
        headers.pop("Allow", None)
    return problem(status, code, message, scope=request.scope, headers=headers)


def _methods_of(request: Request) -> list[str]:
    """All that the path takes; the framework tells those of its first route."""
    taken: list[str] = []
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
        scope: dict[str, Any] = {"type": "http", "path": request.url.path, "method": method, "headers": []}
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes):
            taken.append(method)
    return taken
