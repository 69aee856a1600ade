"""What the attack sends is what it says: hostile bodies are refused by every path, valid ones are answered."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

import omnimix
from benchmarks import attack
from omnimix.generate.decoding import Options
from omnimix.serve.app import Settings, create_app
from omnimix.serve.engine import OneAtATime

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    engine = OneAtATime(omnimix.load("nano"), "nano")
    app = create_app(engine, Settings(options=Options(max_new_tokens=2)))
    with TestClient(app, raise_server_exceptions=False) as found:
        yield found


@pytest.mark.parametrize("route", attack.ROUTES, ids=lambda route: route.path)
@pytest.mark.parametrize("kind", attack.KINDS)
def test_hostile_bodies_are_refused_in_a_sentence(
    kind: str, route: attack.Route, client: TestClient
) -> None:
    chance = random.Random(f"{kind} {route.path}")
    for _ in range(10):
        body = attack.KINDS[kind](route, chance, 0.004)
        answer = client.post(route.path, content=body, headers=JSON)
        # One odd word may be another that is as good (a text, a source that is a document), or name another model.
        fine = {400, 403} | ({200, 404} if kind == "odd words" else set())
        assert answer.status_code in fine, (answer.text, body[-300:])
        if answer.status_code != 200:
            assert 10 < len(answer.json()["error"]["message"]) < 2000


@pytest.mark.parametrize("route", attack.ROUTES, ids=lambda route: route.path)
def test_valid_requests_are_answered(route: attack.Route, client: TestClient) -> None:
    for seed in range(6):
        body = attack.valid(route, random.Random(seed))
        answer = client.post(route.path, content=body, headers=JSON)
        assert answer.status_code == 200, answer.text
        assert isinstance(route.answer(answer.json()), str)


@pytest.mark.parametrize("route", attack.ROUTES, ids=lambda route: route.path)
def test_words_of_an_object_stand_once_and_are_not_too_many(
    route: attack.Route, client: TestClient
) -> None:
    many = "{" + ",".join(f'"w{i}": 1' for i in range(5000)) + "}"
    for body, said in (
        ('{"model": "nano", "model": "nano"}', "'model' stands twice"),
        (many, "5000 words"),
    ):
        answer = client.post(route.path, content=body, headers=JSON)
        assert answer.status_code == 400
        assert said in answer.json()["error"]["message"]


def _seen(**statuses: str) -> attack.Seen:
    seen = attack.Seen()
    for kind, status in ({"valid": "answered", "health": "200"} | statuses).items():
        seen.add(kind.replace("_", " "), status, 0.1)
    return seen


@pytest.mark.parametrize(
    ("seen", "after", "said"),
    [
        (_seen(), 109.0, None),
        (_seen(), 111.0, "memory grew from 100 to 111"),
        (_seen(valid="400 b'...'"), 100.0, "1 of 1 valid requests"),
        (_seen(pipelined="1"), 100.0, "1 of 2 valid requests"),
        (_seen(odd_words="500"), 100.0, "odd words: 1 answers of 500"),
        (_seen(valid="503 b'...'"), 100.0, "valid: 1 answers of 503"),
        (_seen(health="TimeoutError"), 100.0, "/health answered"),
        (_seen(slow_headers="open"), 100.0, "1 of slow headers were open"),
        (attack.Seen(), 100.0, "0 of 0 valid requests"),
    ],
)
def test_the_judgement(seen: attack.Seen, after: float, said: str | None) -> None:
    found = attack.faults(seen, 100.0, after)
    assert (said is None and found == []) or any(said and said in one for one in found)
    slow = _seen()
    slow.add("health", "200", 1.5)
    assert any("99th percentile" in one for one in attack.faults(slow, 100.0, 100.0))
    assert "answered" in attack.table(_seen())
