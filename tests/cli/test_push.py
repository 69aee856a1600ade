"""`omnimix push` against a hub of our own that speaks as much of the API as a commit needs."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml
from typer.testing import CliRunner, Result

from omnimix.checkpoints import licences
from omnimix.cli.main import app


class Hub(ThreadingHTTPServer):
    """A hub: repositories with their files.

    Attributes:
        repos: by name, whether they are private.
        files: by repository and path, the contents.
        large: contents that came by the way of large files, by their hash.
        status: what every request is answered with, where it is refused.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        self.commits: list[str] = []
        self.status = 200
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """One request to the hub."""

    server: Hub

    def log_message(self, *_: object) -> None:
        """Silent."""

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def say(self, data: Any, status: int = 200) -> None:
        content = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_PUT(self) -> None:
        content = self.body()
        self.server.large[self.path.rsplit("/", 1)[1]] = content
        assert hashlib.sha256(content).hexdigest() in self.server.large
        self.say({})

    def do_POST(self) -> None:
        hub, body = self.server, self.body()
        if hub.status != 200:
            self.say({"error": "Invalid username or password."}, hub.status)
        elif self.headers.get("Authorization") != "Bearer hf_ours":
            self.say({"error": "Unauthorized"}, 401)
        elif self.path == "/api/repos/create":
            words = json.loads(body)
            repo = f"{words['organization']}/{words['name']}"
            exists = repo in hub.repos
            hub.repos[repo] = words.get("visibility") == "private" or bool(words.get("private"))
            hub.files.setdefault(repo, {})
            self.say({"url": f"{hub.address}/{repo}"}, 409 if exists else 200)
        elif self.path == "/api/validate-yaml":
            yaml.safe_load(json.loads(body)["content"].split("---")[1])
            self.say({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            rows = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            self.say({"files": rows})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{hub.address}/large/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self.say({"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            repo = "/".join(self.path.split("/")[3:5])
            for line in body.splitlines():
                one = json.loads(line)
                value = one["value"]
                if one["key"] == "file":
                    hub.files[repo][value["path"]] = base64.b64decode(value["content"])
                elif one["key"] == "lfsFile":
                    hub.files[repo][value["path"]] = hub.large[value["oid"]]
            hub.commits.append(repo)
            self.say({"commitUrl": f"{hub.address}/{repo}/commit/abc", "commitOid": "a" * 40})
        else:
            self.say({"error": f"unknown {self.path}"}, 404)


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def model(tiny_folder: Path, tmp_path: Path) -> Path:
    """A model's folder with what a training run and an evaluation leave behind."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n\nA word of mine.\n")
    part = {"data": {"kind": "llava", "path": "/home/me/secret/rows.json"}, "weight": 1.0}
    stage = {
        "name": "align",
        "trainable": ["image.*"],
        "mixture": [part],
        "max_steps": 7,
        "batch_size": 4,
    }
    (folder / "training.yaml").write_text(yaml.safe_dump({"name": "m", "stages": [stage]}))
    score = {"score": 0.5, "low": 0.4, "high": 0.6, "n": 200}
    (folder / "scores.json").write_text(
        json.dumps({"tasks": {"count": score}, "benchmark": "scenes", "model": "m"})
    )
    (folder / "optimizer.pt").write_bytes(b"x")
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / "model.safetensors").write_bytes(b"x")
    (folder / ".hidden").write_text("x")
    (folder / "deep").mkdir()
    (folder / "deep" / "words.txt").write_text("x")
    return folder


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The hub's library as it is where somebody is logged in; it reads its settings when it is imported."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_ours")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    yield monkeypatch
    huggingface_hub.close_session()


def push(*words: object) -> Result:
    return CliRunner().invoke(app, ["push", *map(str, words)])


SENT = {
    "README.md",
    "config.json",
    "fingerprint.json",
    "generation_config.json",
    "model.safetensors",
    "nano.tokenizer.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "modeling_omnimix.py",
    "processor_config.json",
    "recipe.yaml",
    "training.yaml",
    "scores.json",
    "deep/words.txt",
}


# The hub's library hands its own client a file by a word that the client calls old.
@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")
def test_a_model_goes_there_whole(hub: Hub, model: Path, settings: pytest.MonkeyPatch) -> None:
    done = push(model, "me/tiny", "--private", "--endpoint", hub.address)
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    assert done.stdout == f"pushed: {hub.address}/me/tiny/commit/abc\n"
    assert hub.repos == {"me/tiny": True} and hub.commits == ["me/tiny"]
    files = hub.files["me/tiny"]
    assert set(files) == SENT
    for name in SENT - {"README.md"}:
        assert files[name] == (model / name).read_bytes(), name
    assert len(hub.large) == 1, "weights go the way of large files"
    again = push(model, "me/tiny", "--endpoint", hub.address)
    assert again.exit_code == 0 and hub.commits == ["me/tiny"] * 2


def test_the_card(model: Path) -> None:
    result = CliRunner().invoke(app, ["push", str(model), "me/tiny", "--dry-run"])
    assert result.exit_code == 0, result.output
    card, _, listed = result.stdout.rpartition("```\n")
    assert {line.split("  ")[0] for line in listed.splitlines() if line} == SENT
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "omnimix" and head["pipeline_tag"] == "image-text-to-text"
    assert {"image", "region"} <= set(head["tags"])
    for words in (
        'omnimix.load(snapshot_download("me/tiny"))',
        "| image | image | inline | 1 tile x 49 = 49 |",
        "| align | `image.*` | llava rows.json | 7 | 4 | default |",
        "| count | 50.0% | 40.0% to 60.0% | 200 |",
        "## Notes\n\n## Mine\n\nA word of mine.",
        "```yaml\nname: tiny\n",
    ):
        assert words in card, words
    assert "secret" not in card and "license: mit" not in card


def test_conflicts_of_licences_are_named(model: Path) -> None:
    words = ["--from", "image=facebook/imagebind-huge", "--from", "language=lmsys/vicuna-7b-v1.5"]
    call = ["push", str(model), "me/tiny", "--dry-run", *words, "--from", "x=some/body"]
    result = CliRunner().invoke(app, [*call, "--licence", "mit"])
    assert result.exit_code == 0, result.output
    assert (
        "[facebook/imagebind-huge](https://huggingface.co/facebook/imagebind-huge) | CC-BY-NC-SA-4.0"
        in result.stdout
    )
    for said in (
        "facebook/imagebind-huge is under CC-BY-NC-SA-4.0: what is made of it cannot be given under MIT",
        "cannot both be kept",
        "the licence of some/body is not known",
        "lmsys/vicuna-7b-v1.5 is under Llama 2 Community",
    ):
        assert (
            said in result.stderr and f"**Conflict:** {said}" in result.stdout
        ) or said in result.stdout


def test_licences_of_the_whole() -> None:
    free = {"a": "MIT", "b": "Apache-2.0"}
    assert licences.fitting(free) == "Apache-2.0" and not list(licences.conflicts(free, "MIT"))
    assert licences.fitting({**free, "c": "Llama 2 Community"}) == "Llama 2 Community"
    assert licences.fitting({"a": "CC-BY-NC-SA-4.0", "c": "Llama 2 Community"}) is None
    assert licences.fitting({"a": None}) is None and licences.fitting({}) is None
    assert licences.of_part("mistralai/Mistral-7B-Instruct-v0.1") == "Apache-2.0"
    assert licences.of_part("nobody/nothing") is None
    assert all(name in licences.known() for name in licences._table().parts.values())
    (said,) = licences.conflicts({"a": "CC-BY-NC-4.0"}, "MIT")
    assert "no commercial use" in said


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ("no token", "there is no token for the hub"),
        ("wrong token", "the hub refuses the token (401)"),
        ("forbidden", "the hub refuses the token (403)"),
        ("fault", "the hub answers 418"),
        ("down", "the hub cannot be reached"),
        ("offline", "HF_HUB_OFFLINE forbids it"),
        ("no model", "no model"),
        ("no folder", "unknown model"),
        ("bad name", "names no repository"),
        ("link", "a link that leads out of the folder"),
    ],
)
def test_refusals_are_one_sentence(
    hub: Hub, model: Path, tmp_path: Path, settings: pytest.MonkeyPatch, harm: str, says: str
) -> None:
    hub.status = {"forbidden": 403, "fault": 418}.get(harm, 200)
    endpoint = "http://127.0.0.1:1" if harm == "down" else hub.address
    folder = {"no model": tmp_path, "no folder": tmp_path / "nowhere"}.get(harm, model)
    if harm == "link":
        (tmp_path / "outside.txt").write_text("x")
        (model / "inside.txt").symlink_to(tmp_path / "outside.txt")
    if harm in ("no token", "wrong token"):
        settings.setenv("HF_TOKEN", "hf_theirs" if harm == "wrong token" else "")
    settings.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", harm == "offline")
    repo = "me" if harm == "bad name" else "me/tiny"
    done = push(folder, repo, "--endpoint", endpoint)
    said = " ".join(done.stderr.split())
    assert done.exit_code == 2 and says in said, done.output
    assert said.count("error:") == 1
    assert not hub.commits and not hub.large
