"""A model that somebody serves: any server that speaks OpenAI's API, asked as an assistant of this process is."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omnimix.bearer import bearer
from omnimix.cli import messages
from omnimix.errors import OmnimixError
from omnimix.generate.answers import Answer, Stream
from omnimix.parallel.process_group import ProcessGroup
from omnimix.regions import from_json
from omnimix.registry import did_you_mean
from omnimix.types import Media, Region, Turn

if TYPE_CHECKING:
    from http.client import HTTPResponse

_KINDS = ("point", "box", "polygon", "stroke", "rle", "width", "label")
_SAME = {"temperature": "temperature", "top_p": "top_p", "seed": "seed"}


class Remote:
    """Asks a server.

    Args:
        url: its address, with or without `/v1`.
        key: what it is told (`Authorization: Bearer`).

    Attributes:
        models: of the server, by name.
        model_name: which is asked; its first unless another is chosen.
        source: gives an item as it was before it was opened.

    Raises:
        OmnimixError: nobody answers there, or it has no such model.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise OmnimixError("this is no address", where=url, hint="write http://host:port")
        self.url = url.rstrip("/").removesuffix("/v1")
        self.key = key
        self.process_group = ProcessGroup()
        self.source: Callable[[Media], Media] = lambda item: item
        listed = json.loads(self._asked("models").read())
        self.models = {str(row["id"]): row for row in listed.get("data", ())}
        self.model_name = next(iter(self.models), "")

    def choose(self, model: str) -> None:
        """Ask another model of the server.

        Raises:
            OmnimixError: it has none of that name.
        """
        if model not in self.models:
            hint = did_you_mean(model, self.models)
            raise OmnimixError(f"the server has no model {model!r}", where=self.url, hint=hint)
        self.model_name = model

    def stream(self, turns: Sequence[Turn], **options: Any) -> Stream:
        """The answer piece by piece; closing it ends the writing on the server too."""
        found: dict[str, Any] = {"text": "", "regions": {}, "tokens": 0, "end": None}
        answer = self._asked("chat/completions", self._body(turns, options, stream=True))

        def told(done: bool) -> Answer:
            regions = tuple(found["regions"][index] for index in sorted(found["regions"]))
            return Answer(found["text"].strip(), regions, found["tokens"], found["end"] == "stop")

        return Stream(_pieces(answer, found), told)

    def reply(self, turns: Sequence[Turn], **options: Any) -> Answer:
        """The whole answer."""
        stream = self.stream(turns, **options)
        for _ in stream:
            pass
        return stream.answer

    def _body(self, turns: Sequence[Turn], options: dict[str, Any], stream: bool) -> dict[str, Any]:
        ours = self.models[self.model_name].get("owned_by") == "omnimix"
        marked = any(isinstance(p, Media) and p.kind == "region" for t in turns for p in t.content)
        if marked and not ours:
            raise OmnimixError(
                "this server has no word for regions",
                where=self.url,
                hint="ask without /box and /point",
            )
        words = {theirs: options.get(name) for name, theirs in _SAME.items()}
        words["max_tokens"] = options.get("max_new_tokens")
        words["regions_as"] = options.get("pointing") if ours else None
        words = {name: value for name, value in words.items() if value is not None}
        said = messages.written(turns, self.source)
        return {"model": self.model_name, "messages": said, "stream": stream, **words}

    def _asked(self, path: str, body: Any = None) -> HTTPResponse:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **bearer(self.key, "the key")}
        request = urllib.request.Request(f"{self.url}/v1/{path}", data, headers)  # noqa: S310
        try:
            answer: HTTPResponse = urllib.request.urlopen(request, timeout=600)  # noqa: S310
        except urllib.error.HTTPError as error:
            raise _refused(error.read(), f"{error.code} {error.reason}", self.url) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise OmnimixError(f"cannot ask the server ({reason})", where=self.url) from None
        return answer


def _refused(body: bytes, status: str, url: str) -> OmnimixError:
    """What a server says instead of an answer, in its own words."""
    try:
        told = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        told = status
    return OmnimixError(f"the server answers: {str(told).rstrip('.')}", where=url)


def _pieces(answer: HTTPResponse, found: dict[str, Any]) -> Generator[str, None, None]:
    with answer:
        for chunk in _events(answer):
            if "error" in chunk:
                raise _refused(json.dumps(chunk).encode(), "", answer.url)
            for choice in chunk.get("choices") or ():
                delta = choice.get("delta") or {}
                found["end"] = choice.get("finish_reason") or found["end"]
                for row in delta.get("regions") or ():
                    found["regions"][row.get("index", len(found["regions"]))] = _region(row)
                if delta.get("content"):
                    found["tokens"] += 1
                    found["text"] += delta["content"]
                    yield delta["content"]


def _events(answer: HTTPResponse) -> Iterator[Mapping[str, Any]]:
    for line in answer:
        text = line.decode().strip()
        if text.startswith("data:") and text != "data: [DONE]":
            try:
                yield json.loads(text.removeprefix("data:"))
            except ValueError:
                raise OmnimixError("the server's stream is no JSON", where=answer.url) from None


def _region(row: Mapping[str, Any]) -> Region:
    return from_json({word: row[word] for word in _KINDS if word in row}, "the answer")
