"""The server in OpenAPI's words, made of what its routes read and write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from omnimix.serve import schema
from omnimix.serve.openai.requests import ChatBody, CompletionBody
from omnimix.serve.openai.responses import ResponsesBody
from omnimix.serve.openai.segment import SegmentBody

BODIES: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
    "/v1/responses": ResponsesBody,
    "/v1/prompt": ChatBody,
    "/v1/segment": SegmentBody,
    "/chat": schema.Request,
}
"""What is posted where; a path that is not here takes any object."""

STREAMED = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses"})

_PLACE = "#/components/schemas/"
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "code": {"type": "string"},
                **{
                    word: {"type": ["string", "null"]}
                    for word in ("param", "what", "where", "hint")
                },
            },
        }
    },
}


def openapi(posts: Iterable[str], gets: Iterable[str], keys: bool) -> dict[str, Any]:
    """The whole description.

    Args:
        posts, gets: paths that there are.
        keys: whether clients must say one.
    """
    models = list({id(model): model for model in BODIES.values()}.values())
    names, held = models_json_schema(
        [(model, "validation") for model in models], ref_template=_PLACE + "{model}"
    )
    refs: dict[Any, str] = {model: name["$ref"] for (model, _), name in names.items()}
    paths: dict[str, Any] = {path: {"post": _post(path, refs)} for path in posts}
    for path in gets:
        paths[path.replace(":path", "")] = {"get": _get(path)}
    schemas = {**held.get("$defs", {}), "Error": _ERROR}
    components: dict[str, Any] = {"schemas": schemas}
    words: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "omnimix", "version": version("omnimix")},
        "paths": paths,
        "components": components,
    }
    if keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        words["security"] = [{"key": []}]
    return words


def _post(path: str, refs: Mapping[Any, str]) -> dict[str, Any]:
    body = BODIES.get(path)
    asked = {"type": "object"} if body is None else {"$ref": refs[body]}
    told = "" if body is None else (body.__doc__ or "").split("\n")[0]
    found: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if path in STREAMED:
        found["text/event-stream"] = {}
    return {
        "summary": told or f"POST {path}",
        "requestBody": {"required": True, "content": {"application/json": {"schema": asked}}},
        "responses": {"200": {"description": "the answer", "content": found}, **_refusals()},
    }


def _get(path: str) -> dict[str, Any]:
    kind = "text/plain" if path == "/metrics" else "application/json"
    form = {"type": "string"} if path == "/metrics" else {"type": "object"}
    words: dict[str, Any] = {
        "summary": f"GET {path.replace(':path', '')}",
        "responses": {"200": {"description": "as it stands", "content": {kind: {"schema": form}}}},
    }
    words["responses"] |= _refusals()
    if "{" in path:
        name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
        words["parameters"] = [name]
    return words


def _refusals() -> dict[str, Any]:
    form = {"application/json": {"schema": {"$ref": _PLACE + "Error"}}}
    return {"default": {"description": "why it is not answered", "content": form}}
