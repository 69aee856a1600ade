"""Official files fetched from a server of one's own, and index files over them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.evaluate.layouts import MAKERS
from tests.evaluate.test_benchmarks import Says
from typer.testing import CliRunner

from omnimix.cli.main import app
from omnimix.errors import MediaError, OmnimixError
from omnimix.evaluate.answers import run
from omnimix.evaluate.benchmark import BenchmarkSpec, table
from omnimix.evaluate.getting import get, unpack


class Site:
    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.cut = 0


@pytest.fixture
def site() -> Iterator[tuple[Site, str]]:
    made = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, span = self.path.rpartition("/")[2], self.headers.get("Range", "")
            made.asked.append((name, span))
            content = made.files.get(name)
            if content is None:
                self.send_error(404)
                return
            start = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
            rest = content[start:]
            self.send_response(206 if span else 200)
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest[: made.cut or None])
            made.cut = 0

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield made, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def zipped(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/"), content)
    return out.getvalue()


def spec(url: str, **words: Any) -> BenchmarkSpec:
    row = table()["gqa"].dump() | {"get": [{"url": url, **words}]}
    return BenchmarkSpec.model_validate(row)


def test_a_stopped_fetch_goes_on(site: tuple[Site, str], tmp_path: Path) -> None:
    made, url = site
    made.files["q.zip"] = content = zipped(testdev__q=b"{}" * 500)
    made.cut = 50
    chosen = spec(f"{url}/q.zip", sha256=hashlib.sha256(content).hexdigest(), unpack=True)
    with pytest.raises(MediaError, match="ended before the file did"):
        get(chosen, tmp_path)
    get(chosen, tmp_path)
    assert made.asked == [("q.zip", ""), ("q.zip", "bytes=50-")]
    assert (tmp_path / "testdev/q").read_bytes() == b"{}" * 500
    assert get(chosen, tmp_path) == ["q.zip: there already"] and len(made.asked) == 2


def test_another_content_is_refused(site: tuple[Site, str], tmp_path: Path) -> None:
    made, url = site
    made.files["q.json"] = b"[]"
    with pytest.raises(MediaError, match="its content is another"):
        get(spec(f"{url}/q.json", sha256="0" * 64), tmp_path)
    assert not (tmp_path / "q.json").exists()
    with pytest.raises(MediaError, match="answers 404"):
        get(spec(f"{url}/none.json"), tmp_path)


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/../../out", "a\\..\\out"])
def test_archives_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(MediaError, match="leads out of the folder"):
        unpack(path, tmp_path / "inside")
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        packed.addfile(link)
    with pytest.raises(MediaError, match="which is no file"):
        unpack(tmp_path / "a.tar", tmp_path / "inside")
    path.write_bytes(b"no archive")
    with pytest.raises(MediaError, match="no zip and no tar"):
        unpack(path, tmp_path / "inside")


def test_the_command_shows_the_licence(site: tuple[Site, str], tmp_path: Path) -> None:
    made, url = site
    made.files |= {"questions1.2.zip": zipped(a=b"1"), "images.zip": zipped(images__n1=b"2")}
    words = ["data", "get", "gqa", str(tmp_path / "gqa"), "--mirror", url]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2 and "network that is not public" in refused.stderr
    done = CliRunner().invoke(app, [*words, "--allow-private"])
    assert done.exit_code == 0 and "licence: CC BY 4.0" in done.output and "sha256" in done.output
    assert (tmp_path / "gqa/images/n1").read_bytes() == b"2"
    asked = CliRunner().invoke(app, ["data", "get", "docvqa", str(tmp_path / "d")])
    assert asked.exit_code == 2 and "by registration" in asked.stderr


def test_subsets_are_beginnings_of_one_order(tmp_path: Path) -> None:
    MAKERS["tallyqa"](tmp_path / "files")
    row = json.loads((tmp_path / "files/test.json").read_text())[0]
    rows = [{**row, "question_id": i, "issimple": i % 2 == 0} for i in range(10)]
    (tmp_path / "files/test.json").write_text(json.dumps(rows))
    words = [
        "data",
        "prepare",
        "tallyqa",
        str(tmp_path / "files"),
        str(tmp_path / "out"),
        "--slim",
        "2",
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    order = list(range(10))
    Random(21).shuffle(order)  # as its authors do
    full, slim = (
        json.loads((tmp_path / f"out/metadata-{name}.json").read_text())
        for name in ("full", "slim-2")
    )
    assert list(map(int, full)) == order and full["3"]["img_path"] == "VG_100K/1.jpg"
    simple = [i for i in order if i % 2 == 0][:2]
    assert [int(i) for i in slim if int(i) % 2 == 0] == simple and len(slim) == 4

    says = Says(["1"] * 4)
    found = run(says, "tallyqa", tmp_path / "files", index=tmp_path / "out/metadata-slim-2.json")  # type: ignore[arg-type]
    assert [item.line["id"] for item in found.items] == list(slim)
    (tmp_path / "files/test.json").write_text(json.dumps(rows[:3]))
    with pytest.raises(OmnimixError, match="rows of the index are not there"):
        run(says, "tallyqa", tmp_path / "files", index=tmp_path / "out/metadata-full.json")  # type: ignore[arg-type]


def test_boxes_in_the_index_are_shares(tmp_path: Path) -> None:
    MAKERS["refcoco"](tmp_path / "files")
    done = CliRunner().invoke(
        app, ["data", "prepare", "refcoco", str(tmp_path / "files"), str(tmp_path)]
    )
    assert done.exit_code == 0 and "depends on a hash" in done.output
    row = json.loads((tmp_path / "metadata-full.json").read_text())["1-1"]
    assert row["bbox"] == [0, 0, 0.5, 0.5] and row["ref_expression"] == "left cat"
