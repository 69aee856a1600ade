"""Writes page/openapi.json, what the server says of itself, of which the page's types are made (`make page`)."""

from __future__ import annotations

import json
from pathlib import Path

from starlette.testclient import TestClient

import omnimix
from omnimix.serve.app import create_app
from omnimix.serve.engine import OneAtATime

PLACE = Path(__file__).parents[1] / "page" / "openapi.json"


def written() -> str:
    app = create_app(OneAtATime(omnimix.load("nano"), "nano"))
    with TestClient(app) as client:
        found = client.get("/openapi.json").json()
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    PLACE.write_text(written(), encoding="utf-8")
    print(PLACE)
