"""An engine that orders its requests itself writes what torch writes, whoever joins, leaves or fails; and vLLM's words."""

from __future__ import annotations

import asyncio
import base64
import copy
import io
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tests.generate.test_backends import questions
from tests.generate.test_engine import LONG, asked, of_kind
from torch import Tensor
from typer.testing import CliRunner

from omnimix.cache import MOVED
from omnimix.cli.main import app
from omnimix.compose.processor import Processor
from omnimix.errors import OmnimixError, Unavailable
from omnimix.generate.assistant import Assistant
from omnimix.generate.engine import backends, vllm
from omnimix.generate.engine.core import Generation, Limits
from omnimix.generate.engine.hosted import Hosted, News
from omnimix.generate.engine.sampling import Likely
from omnimix.generate.engine.vllm_server import VllmServer, sampling
from omnimix.generate.options import Options
from omnimix.serve.batched import Batched
from omnimix.types import Sample
from omnimix_scenes import Scenes


class Writer:
    """Greedy tokens behind embeddings, by the module's own forward; stands for what another engine does."""

    def __init__(self, language: Any) -> None:
        self.language = copy.deepcopy(language)

    def next(self, given: Tensor, ids: list[int]) -> tuple[int, Tensor]:
        """The next token, and the logarithms of all shares."""
        with torch.inference_mode():
            table = self.language.get_input_embeddings()
            rows = torch.cat([given, table(torch.tensor(ids, dtype=torch.long))])
            logits = self.language(inputs_embeds=rows[None], use_cache=False).logits[0, -1]
        return int(logits.argmax()), logits.log_softmax(-1)


class Fake:
    """A host that writes a token of each of its requests whenever it is asked for news."""

    def __init__(self, language: Any, most: int = 99) -> None:
        self.writer, self.most = Writer(language), most
        self.held: dict[Generation, tuple[Tensor, list[int]]] = {}
        self.broken: set[Generation] = set()
        self.at_once = 0

    def start(self, request: Generation, embeddings: Tensor) -> None:
        if request in self.broken:
            raise OmnimixError("not this one")
        self.held[request] = embeddings.clone(), []
        self.at_once = max(self.at_once, len(self.held))

    def stop(self, request: Generation) -> None:
        self.held.pop(request, None)

    def news(self) -> Iterator[News]:
        for request, (given, ids) in list(self.held.items()):
            ids.append(self.writer.next(given, ids)[0])
            yield News(request, ids[-1:], over=len(ids) >= self.most)


@pytest.fixture
def assistant(tiny_processor: Processor) -> Assistant:
    return of_kind("llama", tiny_processor)


def hosted(assistant: Assistant, most: int = 99) -> Fake:
    host = Fake(assistant.model.language, most)
    run = Hosted(assistant.model, host)
    assistant.decoder.make = lambda model: run
    return host


def test_joining_leaving_and_failing_changes_no_answer(assistant: Assistant) -> None:
    woven = questions(assistant)
    wanted = [one.ids for one in assistant.decoder.write(woven, LONG, assistant.endings(LONG))]
    host = hosted(assistant)
    core = assistant.decoder.core(Limits(3, cache_memory=1, prefix_memory=9, item_memory=2**20))
    assert isinstance(core, Hosted)
    requests = [(i % 3, asked(assistant, woven[i % 3])) for i in range(9)]
    host.broken.update(one for i, one in requests if i == 1)
    for number, (_, one) in enumerate(requests):
        core.add(one)
        core.step()
        if number % 4 == 3:
            one.cancel()
    while core.step():
        pass
    for i, one in requests:
        if one.reason == "cancelled":
            assert one.ids == wanted[i][: len(one.ids)]
        elif i == 1:
            assert str(one.error) == "not this one."
        else:
            assert one.ids == wanted[i]
    assert not host.held and host.at_once == 3
    assert core.items.hits


def test_what_ends_an_answer_hurts_no_other(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    woven = questions(assistant)
    wanted = [one.ids for one in assistant.decoder.write(woven, LONG, assistant.endings(LONG))]
    host = hosted(assistant)
    core = assistant.decoder.core(Limits(3))
    first, *others = [asked(assistant, one) for one in woven]

    def unread(ids: list[int]) -> bool:
        raise IndexError("piece id is out of range")

    first.ended = unread
    for one in (first, *others):
        core.add(one)
    while core.step():
        pass
    assert isinstance(first.error, IndexError)
    assert [one.ids for one in others] == wanted[1:]
    assert not host.held
    core.add(asked(assistant, woven[0]))
    core.step()
    assert host.held
    core.fail(RuntimeError("the engine is gone"))
    assert not host.held, "nothing is written for nobody"


def test_every_door_leads_to_it(assistant: Assistant) -> None:
    scenes = Scenes(1000, "heldout")
    made = [scenes.question("describe", i) for i in range(2)]
    asked = [Sample(one.turns[:1], one.id) for one in made]
    wanted = assistant.reply_many(asked, options=LONG)
    host = hosted(assistant)
    assert assistant.reply_many(asked, options=LONG) == wanted
    stream = assistant.stream(asked[0], LONG)
    next(stream)
    assert host.held
    stream.close()
    assert not host.held
    assert "".join(assistant.stream(asked[0], LONG)) == wanted[0].text


def test_a_server_over_it(assistant: Assistant) -> None:
    one = Scenes(1000, "heldout").question("describe", 0)
    sample = Sample(one.turns[:1], one.id)
    wanted = assistant.reply(sample, LONG)
    hosted(assistant)
    engine = Batched(assistant, "tiny")

    async def run() -> None:
        assert await engine.generate(sample, LONG) == wanted
        assert engine.health()["running"] == 0
        await engine.close()

    asyncio.run(run())


def test_its_own_limit_is_a_length(assistant: Assistant) -> None:
    hosted(assistant, most=2)
    (one,) = assistant.decoder.write(questions(assistant)[:1], LONG, assistant.endings(LONG))
    assert one.reason == "length" and len(one.ids) == 2


def test_what_it_does_not_promise(assistant: Assistant) -> None:
    hosted(assistant)
    with pytest.raises(OmnimixError, match="does not promise"):
        assistant.decoder.core(Limits(deterministic=True))


def test_options_in_its_words(assistant: Assistant) -> None:
    options = Options(
        9, 0.5, 0.8, 2, 7, top_k=4, presence_penalty=1.0, frequency_penalty=0.5, logprobs=3
    )
    one = asked(assistant, questions(assistant)[0], replace(options, logit_bias={3: 2.0}))
    ends = sorted(assistant.endings(options).ends)
    assert ends
    assert sampling(one) == {
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.8,
        "top_k": 4,
        "min_tokens": 2,
        "seed": 7,
        "presence_penalty": 1.0,
        "frequency_penalty": 0.5,
        "repetition_penalty": 1.0,
        "logit_bias": {3: 2.0},
        "logprobs": 3,
        "stop_token_ids": ends,
        "ignore_eos": True,
        "min_p": 0.0,
    }


@contextmanager
def a_server(writer: Writer, status: int = 200, breaks: bool = False) -> Iterator[tuple[str, list]]:
    """A server that speaks as vLLM's does; its address, and the bodies that it gets."""
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._say(200)
            self.wfile.write(json.dumps({"data": [{"id": "language"}]}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            bodies.append(body)
            self._say(status)
            if status != 200:
                self.wfile.write(json.dumps({"error": {"message": "too long"}}).encode())
                return
            given = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])))
            ids: list[int] = []
            for _ in range(1 if breaks else body["max_tokens"]):
                token, logs = writer.next(given, ids)
                ids.append(token)
                self._piece(body, token, logs, len(ids) == body["max_tokens"])

        def _piece(self, body: dict[str, Any], token: int, logs: Tensor, last: bool) -> None:
            choice: dict[str, Any] = {
                "token_ids": [token],
                "finish_reason": "length" if last and not breaks else None,
            }
            if body["logprobs"] is not None:
                best = logs.topk(body["logprobs"] + 1)
                row = zip(best.indices.tolist(), best.values.tolist(), strict=True)
                top = {f"token_id:{i}": share for i, share in row}
                choice["logprobs"] = {"token_logprobs": [float(logs[token])], "top_logprobs": [top]}
            self.wfile.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())

        def _say(self, code: int) -> None:
            self.send_response(code)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", bodies
        finally:
            server.shutdown()


def test_a_server_of_vllm(assistant: Assistant) -> None:
    woven, options = questions(assistant), replace(LONG, logprobs=2)
    endings = assistant.endings(options)
    wanted = assistant.decoder.write(woven, options, endings)
    with a_server(Writer(assistant.model.language)) as (url, bodies):
        said: list[str] = []
        make = backends.runner_of("vllm", say=said.append, words={"url": url + "/v1"})
        assistant.decoder.make = make
        found = assistant.decoder.write(woven, options, endings)
        assert [one.ids for one in found] == [one.ids for one in wanted]
        for ours, theirs in zip(found, wanted, strict=True):
            for a, b in zip(ours.likely, theirs.likely, strict=True):
                assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
                assert [i for i, _ in a.top] == [i for i, _ in b.top] and len(a.top) == 2
        assert "vLLM: logits at most" in said[0] and "100 %" in said[0]
        assert bodies[-1]["model"] == "language" and bodies[-1]["return_token_ids"] is True
        held = {one.device.type for one in assistant.model.language.parameters()}
        assert held == {"meta", "cpu"}, "torch's own layers are given up"
        with pytest.raises(OmnimixError, match="knows no repetition_penalty"):
            assistant.decoder.write(woven[:1], replace(LONG, repetition_penalty=1.1), endings)
    with pytest.raises(Unavailable, match="cannot be asked"):
        assistant.decoder.write(woven[:1], LONG, endings)


def test_a_server_of_another_model_is_refused(assistant: Assistant) -> None:
    writer = Writer(assistant.model.language)
    with torch.no_grad():
        writer.language.lm_head.weight.copy_(writer.language.lm_head.weight.roll(1, 0))
    with a_server(writer) as (url, _), pytest.raises(OmnimixError, match="other answers") as caught:
        backends.runner_of("vllm", words={"url": url})(assistant.model)
    assert "omnimix export --vllm" in str(caught.value)


@pytest.mark.parametrize(
    ("words", "kind", "why"),
    [
        ({"status": 400}, OmnimixError, "refuses: too long"),
        ({"status": 503}, Unavailable, "it answers 503"),
        ({"breaks": True}, Unavailable, "broke off"),
    ],
)
def test_what_a_server_says_instead(
    words: dict[str, Any], kind: type[OmnimixError], why: str, assistant: Assistant
) -> None:
    with a_server(Writer(assistant.model.language), **words) as (url, _):
        run = Hosted(assistant.model, VllmServer(url, {}))
        assistant.decoder.make = lambda model: run
        with pytest.raises(kind, match=why):
            assistant.decoder.write(questions(assistant)[:1], LONG, assistant.endings(LONG))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"url": "there"}, "is no address"),
        ({"url": "http://127.0.0.1:9"}, "cannot be asked"),
        ({"url": "http://127.0.0.1:9", "tensor_parallel_size": 2}, "started here"),
        ({"url": "http://host:port"}, "is no address"),
        ({"url": "http://[::1"}, "is no address"),
        ({"url": "http://me:secret@127.0.0.1:9"}, "more than an address"),
    ],
)
def test_words_of_a_server(words: dict[str, Any], why: str, assistant: Assistant) -> None:
    with pytest.raises(OmnimixError, match=why) as caught:
        backends.runner_of("vllm", words=words)(assistant.model)
    assert "secret" not in str(caught.value)


def test_a_key_is_never_told(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    with a_server(Writer(assistant.model.language)) as (url, _):
        monkeypatch.setenv("VLLM_API_KEY", "sk-1\n")  # as files of secrets end
        VllmServer(url, {})
        monkeypatch.setenv("VLLM_API_KEY", "sk-1\nsk-2")
        with pytest.raises(OmnimixError, match="holds what no key has") as caught:
            VllmServer(url, {})
    assert "sk-" not in str(caught.value)


@dataclass
class Args:
    """A few of the words of vLLM's own."""

    model: str
    dtype: str = ""
    enable_prompt_embeds: bool = False
    skip_tokenizer_init: bool = False
    max_model_len: int | None = None
    disable_log_stats: bool = False
    tensor_parallel_size: int = 1


class Package:
    """vLLM's engine, as far as it is used, over torch."""

    def __init__(self, writer: Writer, args: Args) -> None:
        self.writer, self.args = writer, args
        self.held: dict[str, tuple[dict[str, Any], Any, list[int]]] = {}
        self.asked: list[dict[str, Any]] = []

    def add_request(self, name: str, prompt: dict[str, Any], params: Any) -> None:
        if len(prompt["prompt_embeds"]) > 200:
            raise ValueError("longer than the maximum")
        self.asked.append(prompt)
        self.held[name] = prompt, params, []

    def abort_request(self, names: list[str]) -> None:
        for name in names:
            self.held.pop(name, None)

    def has_unfinished_requests(self) -> bool:
        return bool(self.held)

    def step(self) -> list[Any]:
        return [self._next(name, *held) for name, held in list(self.held.items())]

    def _next(self, name: str, prompt: dict[str, Any], params: Any, ids: list[int]) -> Any:
        token, logs = self.writer.next(prompt["prompt_embeds"], ids)
        ids.append(token)
        rows = None
        if params.logprobs is not None:
            best = logs.topk(params.logprobs).indices.tolist()
            rows = [{i: SimpleNamespace(logprob=float(logs[i])) for i in {*best, token}}]
        over = len(ids) >= params.max_tokens
        if over:
            del self.held[name]
        one = SimpleNamespace(
            token_ids=[token], logprobs=rows, finish_reason="length" if over else None
        )
        return SimpleNamespace(request_id=name, outputs=[one], finished=over)


@pytest.fixture
def package(assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Package]:
    """vLLM's package is there; the engines that are made of it."""
    monkeypatch.setenv(MOVED, str(tmp_path))
    for name in vllm.ENVIRONMENT:
        monkeypatch.setenv(name, "")
    made: list[Package] = []
    writer = Writer(assistant.model.language)

    def start(args: Args) -> Package:
        if args.tensor_parallel_size > 1:
            raise RuntimeError("no such GPU")
        made.append(Package(writer, args))
        return made[-1]

    module, words = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    engine = SimpleNamespace(from_engine_args=start)
    vars(module).update(EngineArgs=Args, LLMEngine=engine, SamplingParams=SimpleNamespace)
    vars(words).update(RequestOutputKind=SimpleNamespace(DELTA=1))
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", words)
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: name)
    return made


def test_vllm_beside_this_process(assistant: Assistant, package: list[Package]) -> None:
    woven, options = questions(assistant), replace(LONG, logprobs=2)
    endings = assistant.endings(options)
    wanted = assistant.decoder.write(woven, options, endings)
    assistant.decoder.make = backends.runner_of("vllm")
    found = assistant.decoder.write(woven, options, endings)
    assert [one.ids for one in found] == [one.ids for one in wanted]
    assert isinstance(found[0].likely[0], Likely) and len(found[0].likely[0].top) == 2
    (one,) = package
    assert not one.held
    assert Path(one.args.model).joinpath("config.json").is_file()
    assert one.args.enable_prompt_embeds and one.args.dtype == "float32"
    assert one.args.max_model_len == assistant.model.context
    assert set(one.asked[-1]) == {"type", "prompt_embeds"}
    assistant.decoder.write(woven[:1], replace(LONG, repetition_penalty=1.5), endings)
    given = one.asked[-1]
    assert len(given["prompt_token_ids"]) == len(given["prompt_embeds"])
    assert set(given["prompt_token_ids"]) == set(woven[0].ids[woven[0].owner == 0].tolist())
    assert not any(given["is_token_ids"]), "all are read as embeddings"


def test_numbers_that_are_none_are_no_proof(
    assistant: Assistant, package: list[Package], monkeypatch: pytest.MonkeyPatch
) -> None:
    def astray(self: Writer, given: Tensor, ids: list[int]) -> tuple[int, Tensor]:
        return 1, torch.full((assistant.model.vocab_size,), float("nan"))

    monkeypatch.setattr(Writer, "next", astray)
    with pytest.raises(OmnimixError, match="other answers"):
        backends.runner_of("vllm")(assistant.model)


def test_an_answer_that_was_given_up_is_not_a_whole_one(
    assistant: Assistant, package: list[Package], monkeypatch: pytest.MonkeyPatch
) -> None:
    assistant.decoder.make = backends.runner_of("vllm")
    assistant.decoder.core(Limits())
    own = Package._next

    def aborted(self: Package, *held: Any) -> Any:
        out = own(self, *held)
        out.finished, out.outputs[0].finish_reason = True, "abort"
        return out

    monkeypatch.setattr(Package, "_next", aborted)
    with pytest.raises(Unavailable, match="ended the answer"):
        assistant.decoder.write(questions(assistant)[:1], LONG, assistant.endings(LONG))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"tensor_paralel_size": 2}, "no word of vLLM's. Did you mean 'tensor_parallel_size'"),
        ({"dtype": "float16"}, "no word of vLLM's. Omnimix says it"),
        ({"tensor_parallel_size": 2}, "vLLM does not start: no such GPU"),
    ],
)
def test_words_of_vllm(
    words: dict[str, Any], why: str, assistant: Assistant, package: list[Package]
) -> None:
    with pytest.raises(OmnimixError, match=why):
        backends.runner_of("vllm", words=words)(assistant.model)


def test_what_vllm_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    for given, why in (
        ({"backend": "vllm"}, "package vllm is missing. Pip install vllm"),
        ({"backend": "vllm", "weights": "int8"}, "quantization=fp8"),
        ({"backend": "torch", "words": {"url": "http://a"}}, "--backend-arg is for vllm"),
    ):
        with pytest.raises(OmnimixError, match=why):
            backends.runner_of(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--backend", "vllm", "--cache-memory", "9"], "--cache-memory is not for vllm"),
        (["--backend", "vllm", "--deterministic"], "--deterministic is not for vllm"),
        (["--backend-arg", "url=http://a"], "--backend-arg is for vllm"),
        (["--backend-arg", "url"], "--backend-arg takes NAME=VALUE"),
    ],
)
def test_words_of_a_served_vllm(words: list[str], why: str) -> None:
    result = CliRunner().invoke(app, ["serve", "nano", "--port", "0", *words])
    assert result.exit_code == 2 and why in result.output
