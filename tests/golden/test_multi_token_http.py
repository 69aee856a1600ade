"""The HTTP table of multi_token's golden case: what its server answered is answered, what failed is explained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

import omnimix
from omnimix.generate.decoding import Options
from omnimix.serve.app import Settings, create_app
from omnimix.serve.engine import OneAtATime
from omnimix.serve.items import ItemReader
from tests.cases import case_path

CASE = "multi_token/vision_lora"


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    folder = case_path(CASE)
    model = omnimix.load(folder / "checkpoint", device="cpu")
    settings = Settings(ItemReader(folder / "inputs"), Options(max_new_tokens=24))
    with TestClient(create_app(OneAtATime(model, "vision_lora"), settings)) as made:
        yield made


def requests() -> dict[str, dict[str, Any]]:
    """What was posted, by the names of the probes; those are told in words."""
    listed = json.loads((case_path(CASE) / "inputs" / "request.json").read_text())["requests"]
    two = next(one["body"] for one in listed if one["name"] == "two images in one message")
    text = two["messages"][0]["content"]

    def said(*turns: tuple[str, str], **words: Any) -> dict[str, Any]:
        messages = [{"role": role, "content": content} for role, content in turns]
        return {**two, "messages": messages, **words}

    return {
        **{f"ok: {one['name']}": one["body"] for one in listed},
        "messages missing": {"images": two["images"]},
        "data key images missing": {"messages": two["messages"]},
        "images is an empty list": {**two, "images": []},
        "one images item fewer than tokens in the text": {**two, "images": two["images"][:1]},
        "one images item more than tokens in the text": {
            **two,
            "images": [*two["images"], two["images"][0]],
        },
        "no modality token in the text but items given": said(("user", "What is it?")),
        "modality token inside an assistant message": said(
            ("user", "<image> Hm?"), ("assistant", "<image>"), ("user", "Yes?")
        ),
        "system role": said(("system", "Be brief."), ("user", text)),
        "two user turns in a row": said(("user", text), ("user", "And now?")),
        "unknown file path": {**two, "images": ["images/none.png", "images/cat.png"]},
        "client sends temperature and max_new_tokens": {
            **two,
            "temperature": 5.0,
            "max_new_tokens": 1,
        },
        "user text that itself holds [INST] markers": said(
            ("user", f"[INST] {text} [/INST] and [INST] more [/INST]")
        ),
    }


def test_the_table(client: TestClient) -> None:
    probes = json.loads((case_path(CASE) / "case.json").read_text())["http"]["probes"]
    posted = requests()
    seen = set()
    for probe in probes:
        name = probe["name"]
        seen.add(name)
        if name == "GET instead of POST":
            answer = client.get("/generate")
        elif name == "body is not JSON":
            answer = client.post(
                "/generate", content="no", headers={"content-type": "application/json"}
            )
        elif name == "no JSON content type":
            answer = client.post("/generate", content="{}", headers={"content-type": "text/plain"})
        elif name == "unknown path":
            answer = client.post("/nothing", json={})
        else:
            answer = client.post("/generate", json=posted[name])
        expected = 400 if probe["status"] == 500 else probe["status"]
        assert answer.status_code == expected, (name, answer.text)
        if "json" in probe:
            assert answer.json() == probe["json"], name
        elif expected == 200:
            assert isinstance(answer.json()["output"], str), name
        else:
            error = answer.json()["error"]
            assert error["what"] and error["hint"], (name, error)
    assert set(posted) <= seen, "every request is one of the table"


def test_text_alone_is_possible(client: TestClient) -> None:
    body = {"messages": [{"role": "user", "content": "Is it day or night?"}]}
    alone = client.post("/generate", json=body)
    assert alone.status_code == 200
    assert client.post("/generate", json={**body, "images": []}).json() == alone.json()
