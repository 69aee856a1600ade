"""A server of vLLM's that runs elsewhere, of any size: prompts go to its `/v1/completions` as embeddings."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import queue
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from omnimix.bearer import bearer
from omnimix.errors import OmnimixError, Unavailable
from omnimix.generate.engine.core import Generation
from omnimix.generate.engine.hosted import News
from omnimix.generate.engine.sampling import Likely

KEY = "VLLM_API_KEY"
SECONDS = 600
"""In which something has to come."""


def sampling(request: Generation) -> dict[str, Any]:
    """How a request is written, in vLLM's words. Stop strings are looked for here."""
    said, sampler = request.sampler.options, request.sampler
    same = ("temperature", "top_p", "top_k", "logprobs")
    penalties = ("presence_penalty", "frequency_penalty", "repetition_penalty")
    return {
        **{word: getattr(said, word) for word in (*same, *penalties)},
        "seed": sampler.seed,
        "logit_bias": dict(said.logit_bias) if said.logit_bias else None,
        "max_tokens": request.most,
        "min_tokens": said.min_new_tokens,
        "min_p": 0.0,  # else it is what the folder's generation_config.json says
        "stop_token_ids": list(sampler.ends),
        "ignore_eos": True,  # the template's ends are all there are
    }


class VllmServer:
    """vLLM behind an address, started over the folder of `omnimix export --vllm` with `--enable-prompt-embeds`.

    Args:
        url: its address, without `/v1`.
        words: `served_model_name`, where it is not the first that the server lists.

    Raises:
        OmnimixError: an address or words that cannot be; a server that is not there or refuses.
    """

    def __init__(self, url: str, words: Mapping[str, Any]) -> None:
        _check(url)
        if odd := sorted(set(words) - {"served_model_name"}):
            raise OmnimixError(
                f"--backend-arg {odd[0]} is a word of an engine that is started here",
                hint="say it to the server that url names",
            )
        self.url = url.rstrip("/").removesuffix("/v1")
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._streams: dict[Generation, _Stream] = {}
        with _Stream(self.url) as stream:
            answer = stream.open("GET", "/v1/models")
            try:
                own = json.load(answer)["data"][0]["id"]
            except (ValueError, LookupError, TypeError):
                raise OmnimixError(
                    "no vLLM answers there", where=self.url, hint="name the address of `vllm serve`"
                ) from None
        self.model = words.get("served_model_name") or own

    def start(self, request: Generation, embeddings: Tensor) -> None:
        if request.sampler.options.repetition_penalty != 1:
            raise OmnimixError(
                "a vLLM server that gets embeddings knows no repetition_penalty",
                hint="take presence_penalty or frequency_penalty, or run vLLM here, without url",
            )
        stream = self._streams[request] = _Stream(self.url)
        threading.Thread(target=self._read, args=(request, stream, embeddings), daemon=True).start()

    def stop(self, request: Generation) -> None:
        if (stream := self._streams.pop(request, None)) is not None:
            stream.close()

    def news(self) -> Iterator[News]:
        with suppress(queue.Empty):
            yield self._news.get(timeout=0.05 if self._streams else 0)
            while True:
                yield self._news.get_nowait()

    def _read(self, request: Generation, stream: _Stream, embeddings: Tensor) -> None:
        try:
            content = io.BytesIO()
            torch.save(embeddings.detach().cpu().clone(), content)
            body = sampling(request) | {
                "model": self.model,
                "prompt_embeds": base64.b64encode(content.getvalue()).decode(),
                "stream": True,
                "return_token_ids": True,
                "return_tokens_as_token_ids": True,
            }
            with stream:
                for line in stream.open("POST", "/v1/completions", body):
                    if line.startswith(b"data: {"):
                        self._news.put(_news(request, json.loads(line[6:])))
            self._news.put(News(request, error=_gone("its answer broke off")))
        except Exception as error:  # whoever waits is told
            self._news.put(News(request, error=error))


def _check(url: str) -> None:
    """Refuse what is no address, without repeating what may hold a password."""
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        whole = False
    if not whole:
        raise OmnimixError("url is no address", hint="write url=http://host:8000")
    if parts.username is not None or parts.query or parts.fragment:
        raise OmnimixError(
            "url holds more than an address", hint=f"write url=http://host:8000; its key is {KEY}"
        )


def ended(reason: str | None) -> Unavailable | None:
    """What is said of an answer that vLLM gave up, which is not one that has come to its length."""
    if reason in ("stop", "length"):
        return None
    return Unavailable(f"vLLM ended the answer ({reason})", hint="ask again in a moment")


def _news(request: Generation, told: Mapping[str, Any]) -> News:
    if "error" in told:
        return News(request, error=OmnimixError(f"vLLM: {told['error'].get('message')}"))
    choice, likely = told["choices"][0], []
    ids, logprobs = choice.get("token_ids"), choice.get("logprobs")
    if ids is None:
        return News(
            request,
            error=OmnimixError("the server gives no token ids", hint="take a newer vLLM there"),
        )
    count = request.sampler.options.logprobs
    if logprobs and count is not None:
        rows = zip(logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
        for own, row in rows:
            best = sorted(row.items(), key=lambda pair: -pair[1])[:count]
            likely.append(Likely(own, tuple((_id(name), share) for name, share in best)))
    reason = choice.get("finish_reason")
    over = reason is not None
    return News(request, ids, likely, over, ended(reason) if over else None)


def _id(name: str) -> int:
    return int(name.rpartition(":")[2])


def _gone(why: str) -> Unavailable:
    """For clients too, who are not told where it stands."""
    return Unavailable(f"the vLLM server cannot be asked ({why})", hint="ask again in a moment")


class _Stream:
    """One request, which another thread may end."""

    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._path = parts.path
        self._asking = kind(parts.hostname or "", parts.port, timeout=SECONDS)
        self._asking.auto_open = 0  # what was closed meanwhile is not asked on another connection
        self._socket: socket.socket | None = None
        self._over = False

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, method: str, path: str, body: Any = None) -> http.client.HTTPResponse:
        """What the server answers.

        Raises:
            Unavailable: it is not there, has too much to do, or knows us no more.
            OmnimixError: it refuses what is asked.
        """
        headers = {"Content-Type": "application/json", **bearer(os.environ.get(KEY), KEY)}
        try:
            self._asking.connect()
            self._socket = self._asking.sock
            if self._over:
                raise _gone("nobody waits")
            data = None if body is None else json.dumps(body)
            self._asking.request(method, self._path + path, data, headers)
            answer = self._asking.getresponse()
            if answer.status == 200:
                return answer
            with answer:
                said = answer.read(2000).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            raise _gone(str(error) or type(error).__name__) from None
        if answer.status not in (400, 413, 422):
            raise _gone(f"it answers {answer.status}")
        with suppress(ValueError, KeyError, TypeError):
            said = json.loads(said)["error"]["message"]
        raise OmnimixError(f"the vLLM server refuses: {said}")

    def close(self) -> None:
        self._over = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        self._asking.close()
