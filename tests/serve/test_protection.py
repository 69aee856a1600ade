"""What stands in front of the routes: keys, rates, origins, a full house, deadlines, an ending, a page's files."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings as examples, strategies as st
from starlette.testclient import TestClient

from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.errors import OmnimixError, Unavailable
from omnimix.generate.answers import Answer
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options
from omnimix.serve import keys, ready
from omnimix.serve.app import Settings, create_app
from omnimix.serve.engine import OneAtATime, Piece, whole
from omnimix.serve.openai.uuids import Forgotten, Uuids
from omnimix.types import Mask, Media, Sample
from omnimix_scenes import Scenes

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello"}]}


class Told:
    """An engine that says what it is told to, word by word, or waits for ever."""

    def __init__(self, processor: Processor, *words: str, error: Exception | None = None) -> None:
        self.name, self.processor, self.recipe = "told", processor, processor.recipe
        self.words, self.error = words, error
        self.written = 0

    async def stream(self, sample: Sample, options: Options) -> AsyncGenerator[Piece, None]:
        for word in self.words:
            self.written += 1
            yield Piece(word)
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()

    async def generate(self, sample: Sample, options: Options) -> Answer:
        return await whole(self.stream(sample, options))

    def health(self) -> dict[str, Any]:
        return {"running": 3, "items": {"hits": 5}, "name": "x", "fine": True}

    async def close(self) -> None:
        pass


def client(engine: Any, **words: Any) -> TestClient:
    return TestClient(create_app(engine, Settings(**words)), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def engine(tiny_model: MultimodalLM, tiny_processor: Processor) -> OneAtATime:
    return OneAtATime(Assistant(tiny_model, tiny_processor), "tiny")


def test_a_deadline_ends_an_answer(tiny_processor: Processor) -> None:
    asked = client(Told(tiny_processor, "a", "b"), deadline=0.05)
    late = asked.post(CHAT, json=HELLO)
    assert late.status_code == 504 and late.json()["error"]["code"] == "deadline_exceeded"
    stream = asked.post(CHAT, json={**HELLO, "stream": True})
    assert stream.status_code == 200 and "deadline_exceeded" in stream.text
    assert '"content":"b"' in stream.text and "[DONE]" not in stream.text


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (OmnimixError("odd"), 400, "odd"),
        (RuntimeError("a secret"), 500, "the server failed"),
        (Unavailable("ending"), 503, "ending"),
    ],
)
def test_what_fails_says_so(
    tiny_processor: Processor, error: Exception, status: int, says: str
) -> None:
    told = client(Told(tiny_processor, error=error)).post(CHAT, json={**HELLO, "stream": True})
    assert told.status_code == status and told.json()["error"]["what"] == says
    late = client(Told(tiny_processor, "a", error=error)).post(CHAT, json={**HELLO, "stream": True})
    assert late.status_code == 200 and says in late.text and "secret" not in late.text


def test_an_ending_server_takes_nobody_in(engine: OneAtATime) -> None:
    app = create_app(engine)
    asked = TestClient(app)
    assert asked.get("/ready").status_code == 200
    app.state.drain.ending = True
    for answer in (asked.get("/ready"), asked.post(CHAT, json=HELLO)):
        assert answer.status_code == 503 and answer.headers["retry-after"]
    assert asked.get("/health").status_code == 200


def test_a_key_may_ask_so_often(engine: OneAtATime) -> None:
    asked = client(engine, rate=2, keys=("key-number-1", "key-number-2"))
    bearer = [{"Authorization": f"Bearer key-number-{n}"} for n in (1, 2)]
    statuses = [asked.post(CHAT, json={}, headers=bearer[0]).status_code for _ in range(3)]
    assert statuses == [400, 400, 429]
    assert asked.post(CHAT, json={}, headers=bearer[1]).status_code == 400
    full = asked.post(CHAT, json={}, headers=bearer[0])
    assert 1 <= int(full.headers["retry-after"]) <= 30
    assert asked.get("/v1/models", headers=bearer[0]).status_code == 200, "looking is free"


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/v1/models/tiny"])
def test_keys_guard_all_but_what_is_open(engine: OneAtATime, path: str) -> None:
    asked = client(engine, keys=("a-long-key",))
    assert asked.get(path).status_code == 401
    assert asked.get(path, headers={"Authorization": "Basic a-long-key"}).status_code == 401
    assert asked.get(path, headers={"Authorization": "bearer a-long-key"}).status_code == 200
    for free in ("/health", "/ready", "/openapi.json"):
        assert asked.get(free).status_code == 200


def test_keys_come_from_files_and_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nfirst-key # of a\n\nsecond-key\n", encoding="utf-8")
    found = keys.gathered(["third-key"], file, "first-key,fourth-key")
    assert found == ("third-key", "first-key", "second-key", "fourth-key")
    for given_, of in ((["short"], None), (["with a space"], None), ([], tmp_path / "none")):
        with pytest.raises(OmnimixError):
            keys.gathered(given_, of, "")
    file.write_text("# none\n", encoding="utf-8")
    with pytest.raises(OmnimixError, match="no key"):
        keys.gathered([], file, "")


def test_pages_of_known_origins_may_ask(engine: OneAtATime) -> None:
    asked = client(engine, origins=("https://a.example",))
    for origin, allowed in (("https://a.example", True), ("https://b.example", False)):
        answer = asked.get("/health", headers={"Origin": origin})
        assert (answer.headers.get("access-control-allow-origin") == origin) == allowed
        assert (
            "access-control-allow-origin"
            not in client(engine).get("/health", headers={"Origin": origin}).headers
        )


def test_numbers_for_prometheus(tiny_processor: Processor) -> None:
    asked = client(Told(tiny_processor, "a", error=OmnimixError("x")))
    asked.post(CHAT, json={**HELLO, "stream": True})
    asked.get("/nowhere/of/a/stranger")
    told = asked.get("/metrics").text
    assert f'omnimix_requests_total{{path="{CHAT}",status="200"}} 1.0' in told
    assert 'path="other",status="404"' in told and "stranger" not in told
    assert "omnimix_engine_running 3.0" in told and "omnimix_engine_items_hits 5.0" in told
    assert "omnimix_time_to_first_token_seconds_count 1.0" in told


def test_files_of_a_page(engine: OneAtATime, tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<p>hello", encoding="utf-8")
    (tmp_path / "assets" / "a.js").write_text("1", encoding="utf-8")
    asked = client(engine, page=tmp_path, keys=("a-long-key",))
    shown = asked.get("/")
    assert shown.text == "<p>hello" and shown.headers["content-type"].startswith("text/html")
    policy = shown.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert asked.get("/assets/a.js").headers["content-type"].startswith("text/javascript")
    for path in ("/assets", "/assets/../../keys", "/%2e%2e/etc/passwd", "/b.js"):
        assert asked.get(path).status_code == 404
    assert asked.post("/").status_code == 405
    assert client(engine, page=tmp_path / "none").get("/").status_code == 404


def test_below_a_prefix(engine: OneAtATime) -> None:
    app = create_app(engine, Settings(keys=("a-long-key",)))
    asked = TestClient(app, root_path="/deep")
    assert asked.get("/deep/v1/models").status_code == 401
    words = {"headers": {"Authorization": "Bearer a-long-key"}}
    assert asked.get("/deep/v1/models", **words).status_code == 200
    assert 'path="/v1/models"' in asked.get("/deep/metrics", **words).text


def test_named_items_are_forgotten_by_size_and_kept_apart() -> None:
    held = Uuids(5000)
    for number in range(4):
        held.put("me", str(number), Media.image(bytes(1000)))
        held.get("me", "0", "here")
    assert held.get("me", "3", "here").data == bytes(1000)
    for who, name in (("me", "1"), ("you", "0")):
        with pytest.raises(Forgotten):
            held.get(who, name, "here")
    assert held.get("me", "0", "here") is not held.get("me", "0", "here")


def test_masks(engine: OneAtATime) -> None:
    picture = Scenes(7, "heldout").question("list", 0).media("image")[0].data

    class Boxes:
        def segment(self, image: Any, regions: Any) -> list[Mask]:
            return [Mask.of(region, *image.size) for region in regions]

    file = io.BytesIO()
    picture.save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    body = {"image": {"url": url, "uuid": "p"}, "regions": [{"box": [1, 2, 5, 9]}]}
    asked = client(engine, segmenter=Boxes())
    found = asked.post("/v1/segment", json=body).json()
    assert [found["width"], found["height"]] == list(picture.size)
    assert found["masks"][0]["area"] == 28
    again = {**body, "image": {"uuid": "p"}}
    assert asked.post("/v1/segment", json=again).json() == found
    off = asked.post("/v1/segment", json={**body, "regions": [{"point": [9999, 1]}]})
    assert off.status_code == 400 and "outside" in off.json()["error"]["message"]
    none = client(engine).post("/v1/segment", json=body)
    assert none.status_code == 404 and "--segment" in none.json()["error"]["hint"]


def test_ready_prompts_are_those_of_the_family(tiny_processor: Processor) -> None:
    from omnimix.compose import recipe as recipes

    counts = {"sphinx": 10, "sphinx_v": 7, "prism_dinosiglip": 5, "nano": 4, "xgen_mm": 0}
    assert {name: len(ready.prompts(recipes.load(name))) for name in counts} == counts


NAMES = (
    "role content text type image_url url regions box point polygon uuid n stop seed user input prompt messages "
    "image logit_bias region_format stream temperature"
)
WORDS = st.sampled_from(NAMES.split(" "))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def anything(engine: OneAtATime) -> TestClient:
    return client(engine, options=Options(max_new_tokens=2))


@examples(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(
    path=st.sampled_from([CHAT, "/v1/responses", "/v1/prompt", "/v1/segment", "/v1/completions"]),
    body=st.dictionaries(WORDS, JSON, max_size=5),
    said=st.booleans(),
)
def test_no_body_makes_it_fail(
    anything: TestClient, path: str, body: dict[str, Any], said: bool
) -> None:
    words = {**HELLO, "prompt": "Hello", "input": "Hello"} if said else {}
    content = json.dumps({**body, **({k: v for k, v in words.items() if k not in body})})
    answer = anything.post(path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code < 500
    if answer.status_code != 200:
        assert answer.json()["error"]["message"].endswith((".", "?", "!"))


def test_the_description_fits_the_bodies(engine: OneAtATime) -> None:
    told = client(engine).get("/openapi.json").json()
    asked = told["paths"][CHAT]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schema = {**asked, "components": told["components"]}
    jsonschema.Draft202012Validator.check_schema(schema)
    region = {"box": [1, 2, 3, 4]}
    part = {"type": "image_url", "image_url": {"url": "a.png", "regions": [region]}, "uuid": "a"}
    good = [
        HELLO,
        {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "x"}]}]},
    ]
    good += [{**HELLO, "stop": "x", "n": 2, "stream": True}, {**HELLO, "stop": ["x"]}]
    for body in good:
        jsonschema.validate(body, schema)
    for bad in ({}, {**HELLO, "n": 0}, {**HELLO, "tmperature": 1}, {"messages": []}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)
