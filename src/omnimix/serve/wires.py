"""Wire formats: each reads the bodies of one path into the server's own schema, and writes an answer back.

The server mounts every row of `registry.WIRES`. A format knows no file and no network: it says what stands where,
and the server opens it.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from omnimix.compose.recipe import Recipe
from omnimix.generate.answers import Answer
from omnimix.regions import to_json
from omnimix.registry import WIRES
from omnimix.serve import schema
from omnimix.serve.schema import ItemPart, MediaPart, RegionPart, Request


@dataclass(frozen=True)
class Body:
    """A body understood.

    Attributes:
        request: in the server's own words.
        surplus: items that came along although no place of the conversation asks for them. They count, and they
            are refused like any other, but the model does not see them.
    """

    request: Request
    surplus: tuple[MediaPart | ItemPart | RegionPart, ...] = ()


class Wire(abc.ABC):
    """A wire format.

    Attributes:
        path: where its bodies are posted.
        example: a small body, for refusals.
    """

    path: ClassVar[str]
    example: ClassVar[str]

    @abc.abstractmethod
    def read(self, body: Mapping[str, Any], recipe: Recipe) -> Body:
        """A body in the server's own words.

        Args:
            recipe: of the model, which says what it takes.

        Raises:
            OmnimixError: a body of another form; names the place.
        """

    @abc.abstractmethod
    def written(self, answer: Answer) -> dict[str, Any]:
        """What goes back."""

    def words(self, modality: str) -> dict[str, str]:
        """How items of a modality are written, for clients that ask what the model takes."""
        return {}


class Chat(Wire):
    """The server's own: `omnimix.serve.schema.Request` as it stands."""

    path = "/chat"
    example = '{"messages": [{"role": "user", "content": "..."}]}'

    def read(self, body: Mapping[str, Any], recipe: Recipe) -> Body:
        return Body(schema.request(body))

    def written(self, answer: Answer) -> dict[str, Any]:
        return {
            "message": {"role": "assistant", "content": answer.text},
            "regions": [to_json(region) for region in answer.regions],
            "finish_reason": "stop" if answer.finished else "length",
            "usage": {"completion_tokens": answer.tokens},
        }


def wires() -> list[Wire]:
    """Every format that is registered."""
    return [WIRES.load(name)() for name in WIRES]
