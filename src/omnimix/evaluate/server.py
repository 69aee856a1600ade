"""A model behind any server that speaks OpenAI's chat completions, in the place of an assistant."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from PIL import Image

from omnimix import regions
from omnimix.bearer import bearer
from omnimix.errors import MediaError, OmnimixError, RegionError, SampleError
from omnimix.generate.answers import Answer
from omnimix.generate.decoding import Options
from omnimix.types import Media, Sample

KEY = "OPENAI_API_KEY"
TRIES = 4
_USUAL = Options()
_WORDS = {
    **{"max_new_tokens": "max_tokens", "stop_strings": "stop"},
    **{name: name for name in ("temperature", "top_p", "seed", "logit_bias")},
    **{name: name for name in ("presence_penalty", "frequency_penalty")},
}
"""What OpenAI's interface calls an option."""
_LATER = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class _Size:
    size: tuple[int, int]


@dataclass(frozen=True)
class Prepared:
    """A conversation in the words of the API, and the sizes of its pictures."""

    messages: list[dict[str, Any]]
    pictures: tuple[_Size, ...] = ()


@dataclass(frozen=True)
class Server:
    """Asks a server instead of a model.

    Attributes:
        url: up to `/v1`.
        model: its name there.
        seconds: for one answer.
        pause: seconds before the first new try.
    """

    url: str
    model: str
    seconds: float = 300.0
    pause: float = 1.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """Whose answers they are; the address is no part of it, so that a run may move."""
        return {"model": self.model, "server": True}

    def weave(self, sample: Sample, options: Options) -> Prepared:
        """A record in the words of the API.

        Raises:
            OmnimixError: a picture that cannot be read, or an item that is none.
        """
        sizes: list[_Size] = []
        messages = [
            {"role": turn.role, "content": _parts(turn.content, sizes, sample.id)}
            for turn in sample.turns
        ]
        return Prepared(messages, tuple(sizes))

    def write_many(
        self, asked: Sequence[Prepared], batch_size: int = 8, options: Options | None = None
    ) -> list[Answer | OmnimixError]:
        """Answers in their order; a request that is refused gives the refusal.

        Raises:
            OmnimixError: the server is not there; what was answered before stays. Or an option that the API has no
                word for.
        """
        options = options or Options()
        asked_for(options)  # what cannot be asked is refused before anything is
        with ThreadPoolExecutor(min(batch_size, 16)) as pool:
            return list(pool.map(lambda one: self._answer(one, options), asked))

    def ask(self, text: str, max_tokens: int = 64) -> str:
        """The answer to a text.

        Raises:
            OmnimixError: none came.
        """
        answer = self._answer(Prepared([{"role": "user", "content": text}]), Options(max_tokens))
        if isinstance(answer, OmnimixError):
            raise answer
        return answer.text

    def _answer(self, asked: Prepared, options: Options) -> Answer | OmnimixError:
        words = {
            "model": self.model,
            "messages": asked.messages,
            **asked_for(options),
            **self.extra,
        }
        try:
            data = self._post(words)
            choice = data["choices"][0]
            drawn = [
                regions.from_json(_plain(one)) for one in choice["message"].get("regions") or []
            ]
            text = choice["message"]["content"] or ""
            tokens = int((data.get("usage") or {}).get("completion_tokens") or 0)
            return Answer(text.strip(), tuple(drawn), tokens, choice.get("finish_reason") == "stop")
        except (KeyError, IndexError, TypeError, RegionError) as error:
            return SampleError(f"the server's answer has not the form of the API ({error})")
        except MediaError as error:  # refused by the server
            return error

    def _post(self, words: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 (http and https alone, see `checked`)
            f"{checked(self.url)}/chat/completions",
            json.dumps(words).encode(),
            {"Content-Type": "application/json", **bearer(os.environ.get(KEY), KEY)},
        )
        for tried in range(TRIES):
            try:
                with urllib.request.urlopen(request, timeout=self.seconds) as answer:  # noqa: S310
                    found: dict[str, Any] = json.load(answer)
                    return found
            except urllib.error.HTTPError as error:
                said = error.read()[:500].decode("utf-8", "replace").strip()
                if error.code in (401, 403, 404):
                    raise self._away(f"it answers {error.code}: {said}") from None
                if error.code not in _LATER:
                    raise MediaError(f"the server answers {error.code}: {said}") from None
                last = f"it answers {error.code}"
            except ValueError:
                raise MediaError("the server's answer is no JSON") from None
            except (OSError, http.client.HTTPException) as error:
                last = str(getattr(error, "reason", error)) or type(error).__name__
            if tried + 1 < TRIES:
                time.sleep(self.pause * 2**tried)
        raise self._away(last)

    def _away(self, why: str) -> OmnimixError:
        return OmnimixError(
            f"the server cannot be asked ({why})",
            where=self.url,
            hint=f"start it, or check the address, the model's name and {KEY}; the same command goes on",
        )


def asked_for(options: Options) -> dict[str, Any]:
    """Options in the words of the API. How it samples is always said: a server's own defaults may be others.

    Raises:
        OmnimixError: one that the API has no word for.
    """
    said = {"max_new_tokens", "temperature"}
    changed = {
        one.name
        for one in fields(Options)
        if getattr(options, one.name) != getattr(_USUAL, one.name)
    }
    if lacking := sorted(changed - _WORDS.keys()):
        raise OmnimixError(
            f"the API of a server has no word for {', '.join(lacking)}",
            hint="leave it out, or give the server's own word in Server(extra={...})",
        )
    asked = said | changed | {"top_p"} if options.temperature else (said | changed) - {"top_p"}
    return {word: getattr(options, name) for name, word in _WORDS.items() if name in asked}


def checked(url: str) -> str:
    """The address without a final stroke.

    Raises:
        OmnimixError: no http or https.
    """
    if not url.startswith(("http://", "https://")):
        raise OmnimixError(
            "this is no address of a server", where=url, hint="write http://host:port/v1"
        )
    return url.rstrip("/")


def _plain(region: dict[str, Any]) -> dict[str, Any]:
    """A region of an answer without where it stands in the text."""
    place = ("start", "end", "picture", "index", "kind", "joined")
    return {word: value for word, value in region.items() if word not in place}


def _parts(content: Sequence[Any], sizes: list[_Size], where: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for part in content:
        if isinstance(part, str):
            found.append({"type": "text", "text": part})
        elif part.kind == "image":
            address, size = _picture(part, where)
            sizes.append(_Size(size))
            found.append({"type": "image_url", "image_url": {"url": address}})
        elif part.kind == "region" and sizes:
            last = next(one for one in reversed(found) if one["type"] == "image_url")
            last["image_url"].setdefault("regions", []).append(regions.to_json(part.data))
        else:
            raise SampleError(f"a server is not asked about {part.kind}", where=where)
    return found


def _picture(part: Media, where: str) -> tuple[str, tuple[int, int]]:
    """A picture as a data address, and its size as it is shown."""
    try:
        data = part.data if isinstance(part.data, bytes) else Path(part.data).read_bytes()
        with Image.open(io.BytesIO(data)) as picture:
            kind, size = Image.MIME[str(picture.format)], picture.size
            if picture.getexif().get(274, 1) >= 5:  # it lies on its side
                size = (size[1], size[0])
    except (
        OSError,
        TypeError,
        ValueError,
        KeyError,
        SyntaxError,
        Image.DecompressionBombError,
    ) as error:
        raise MediaError(f"the picture cannot be read ({error})", where=where) from None
    return f"data:{kind};base64,{base64.b64encode(data).decode()}", size
