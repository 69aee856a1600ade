"""What goes back to a client when it is no answer of the model."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from omnimix.errors import OmnimixError


def refusal(
    status: int, what: str, where: str | None = None, hint: str | None = None, **headers: str
) -> JSONResponse:
    """An error as JSON: what, where, the way out, and the three as one sentence."""
    return said(status, OmnimixError(what, where=where, hint=hint), **headers)


def said(status: int, error: OmnimixError, **headers: str) -> JSONResponse:
    """An error of omnimix as JSON."""
    words: dict[str, Any] = {"what": error.what, "where": error.where, "hint": error.hint}
    content = {"error": {"message": error.sentence(), **words}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse(content, status, headers=named)
