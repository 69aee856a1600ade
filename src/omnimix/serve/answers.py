"""What goes back to a client when it is no answer of the model."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from omnimix.errors import ContextError, OmnimixError

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    504: "timeout_error",
}
"""Kinds of errors by status, in the words of OpenAI's API; another status is the client's mistake or, from 500, ours."""

CODES = {
    400: "invalid_request",
    401: "invalid_api_key",
    403: "not_allowed",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    415: "unsupported_media_type",
    429: "too_many_requests",
    500: "internal_error",
    503: "unavailable",
    504: "deadline_exceeded",
}


class Refused(Exception):
    """A request that is answered with a refusal."""

    def __init__(self, response: JSONResponse) -> None:
        self.response = response


def refusal(
    status: int, what: str, where: str | None = None, hint: str | None = None, **headers: str
) -> JSONResponse:
    """An error as JSON: what, where, the way out, and the three as one sentence."""
    return said(status, OmnimixError(what, where=where, hint=hint), **headers)


def said(status: int, error: OmnimixError, code: str | None = None, **headers: str) -> JSONResponse:
    """An error of omnimix as JSON."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse(told(status, error, code), status, headers=named)


def told(status: int, error: OmnimixError, code: str | None = None) -> dict[str, Any]:
    """An error in the shape of OpenAI's API, with omnimix's own words beside: what, where and the way out."""
    if code is None:
        long = isinstance(error, ContextError)
        code = "context_length_exceeded" if long else CODES.get(status, "error")
    words: dict[str, Any] = {
        "message": error.sentence(),
        "type": TYPES.get(status, "invalid_request_error" if status < 500 else "server_error"),
        "param": (error.where or "").removeprefix("request: ") or None,
        "code": code,
        "what": error.what,
        "where": error.where,
        "hint": error.hint,
    }
    return {"error": words}
