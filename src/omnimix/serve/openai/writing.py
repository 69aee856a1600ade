"""Answers in the words of OpenAI's API, whole or in chunks, with their regions."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from omnimix.generate.answers import Answer, Placed, TokenLogprob
from omnimix.regions import to_json
from omnimix.serve.engine import Piece

DONE = "data: [DONE]\n\n"


def event(data: Any, name: str | None = None) -> str:
    """One server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


def region(placed: Placed) -> dict[str, Any]:
    """A region of an answer as plain data: what it is, where it lies, and where it stands in the text.

    A key point of a body says as `joined` which regions before it a line of the skeleton joins it to.
    """
    words = to_json(placed.region)
    kind = next(iter(words))
    return {
        "index": placed.index,
        "kind": "mask" if kind == "rle" else kind,
        **words,
        "picture": placed.picture,
        "start": placed.start,
        "end": placed.end,
        **({"joined": list(placed.joined)} if placed.joined else {}),
    }


def regions(placed: Sequence[Placed]) -> list[dict[str, Any]]:
    return [region(one) for one in placed]


def usage(answers: Sequence[Answer]) -> dict[str, int]:
    """Tokens of a request; its prompt counts once, however many answers there are."""
    prompt = answers[0].prompt_tokens if answers else 0
    written = sum(answer.tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
    }


def _logprob(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": max(logprob, -9999.0), "bytes": list(token.encode())}


def chat_logprobs(found: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    """Of `chat.completions`."""
    if not found:
        return None
    content = [
        {**_logprob(one.token, one.logprob), "top_logprobs": [_logprob(*top) for top in one.top]}
        for one in found
    ]
    return {"content": content, "refusal": None}


def text_logprobs(found: Sequence[TokenLogprob], offset: int = 0) -> dict[str, Any] | None:
    """Of `completions`."""
    if not found:
        return None
    offsets = [offset]
    for one in found:
        offsets.append(offsets[-1] + len(one.token))
    return {
        "tokens": [one.token for one in found],
        "token_logprobs": [max(one.logprob, -9999.0) for one in found],
        "top_logprobs": [{token: max(p, -9999.0) for token, p in one.top} for one in found],
        "text_offset": offsets[:-1],
    }


@dataclass
class Writer:
    """Writes the answers of one request to `chat.completions` (or `completions`).

    Attributes:
        model: its name.
        raw: the text alone, no regions beside.
        plain: in the words of `completions`.
    """

    model: str
    raw: bool = False
    plain: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def _head(self, kind: str) -> dict[str, Any]:
        name = "cmpl" if self.plain else "chatcmpl"
        return {
            "id": f"{name}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
        }

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """All answers at once."""
        choices = [self._choice(i, answer) for i, answer in enumerate(answers)]
        kind = "text_completion" if self.plain else "chat.completion"
        return {**self._head(kind), "choices": choices, "usage": usage(answers)}

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        end = {"index": index, "finish_reason": finish(answer)}
        beside = {} if self.raw else self.beside(answer)
        if self.plain:
            return {
                **end,
                "text": answer.text,
                "logprobs": text_logprobs(answer.logprobs),
                **beside,
            }
        message = {"role": "assistant", "content": answer.text, "refusal": None, **beside}
        return {**end, "message": message, "logprobs": chat_logprobs(answer.logprobs)}

    @staticmethod
    def beside(answer: Answer) -> dict[str, Any]:
        """Regions of an answer, and what looked like one."""
        skipped = [{"text": one.text, "why": one.why} for one in answer.skipped]
        return {"regions": regions(answer.placed), **({"skipped": skipped} if skipped else {})}

    def chunk(self, *choices: dict[str, Any], **words: Any) -> str:
        """One chunk of a stream."""
        kind = "text_completion" if self.plain else "chat.completion.chunk"
        return event({**self._head(kind), "choices": list(choices), **words})

    def first(self, index: int) -> str:
        """The chunk that says who speaks."""
        delta = {"role": "assistant", "content": ""}
        return "" if self.plain else self.chunk(self._delta(index, delta))

    def piece(self, index: int, piece: Piece) -> str:
        """The chunks of a piece; none where it holds nothing for a client."""
        closed = () if self.raw else piece.regions
        written = ""
        if piece.text or closed or piece.logprobs:
            delta: dict[str, Any] = {"text" if self.plain else "content": piece.text}
            if closed:
                delta["regions"] = regions(closed)
            written = self.chunk(self._delta(index, delta, piece.logprobs))
        if piece.answer is None:
            return written
        last: dict[str, Any] = {"text": ""} if self.plain else {}
        if not self.raw and piece.answer.skipped:
            last["skipped"] = self.beside(piece.answer)["skipped"]
        return written + self.chunk(self._delta(index, last, end=finish(piece.answer)))

    def _delta(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: Sequence[TokenLogprob] = (),
        end: str | None = None,
    ) -> dict[str, Any]:
        told = text_logprobs(logprobs) if self.plain else chat_logprobs(logprobs)
        words = {"index": index, "finish_reason": end, "logprobs": told}
        return {**words, **delta} if self.plain else {**words, "delta": delta}


def finish(answer: Answer) -> str:
    """Why an answer ended: `stop` or `length`."""
    return "stop" if answer.finished else "length"
