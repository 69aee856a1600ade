"""Every command with broken files in every argument and wrong words in every option: a sentence, and exit code 1 or 2.

Commands and their parameters are read off the application, so that a new one is tested without a line here.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from omnimix.cli.main import app
from omnimix_scenes import Scenes

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]

WRITTEN = ("out", "draw")
"""Parameters that name what is written, with `folder` of `new`."""

TEXTS = {"ask", "grep", "licence", "endpoint", "host", "device", "repo"}
"""Parameters whose value names no file."""

PYTHON = re.compile(
    r"Traceback|\b[A-Z]\w*(?:Error|Exception|Iteration|Interrupt)\b|unexpected keyword|positional argument"
    r"|object has no attribute|NoneType|inline_container|errno|header too large|--debug",
    re.IGNORECASE,
)
"""What only those who wrote the program can read."""


def broken(folder: Path) -> dict[str, Path]:
    """Files and folders that are nothing that a command can use."""
    whole = json.dumps({"name": "x", "language": {"config": {"hidden_size": 64}}}).encode()
    contents = {
        "empty": b"",
        "noise": bytes(range(256)) * 16,
        "zeros": bytes(4096),
        "cut.json": whole[:-9],
        "cut.yaml": b"a: [1, 2",
        "cut.jsonl": b'{"id": 1, "image": "a.png"}\n{"id": ',
        "cut.safetensors": (4096).to_bytes(8, "little") + b'{"a": {"dtype": "F32"',
        "huge.safetensors": b"\xff" * 8 + b"{}",
        "cut.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "utf16.json": "\ufeff[1, 2]".encode("utf-16-le"),
        "mark.json": b"\xef\xbb\xbf{}",
        "scalar.yaml": b"7\n",
        "null.json": b"null",
        "nan.json": b'[{"id": NaN, "conversations": [NaN]}]',
        "digits.json": b"[" + b"9" * 5000 + b"]",
        "deep.json": b"[" * 100_000,
        "text.py": b"def (",
        "a.train.yaml": b"stages: 3\n",
    }
    folder.mkdir()
    found = {name: folder / name for name in contents}
    for name, data in contents.items():
        found[name].write_bytes(data)
    found["old.bin"] = folder / "old.bin"
    torch.save({"a": torch.ones(2)}, found["old.bin"], _use_new_zipfile_serialization=False)
    found["folder"] = folder / "nothing"
    found["folder"].mkdir()
    found["below a file"] = folder / "empty" / "below"
    found["missing"] = folder / "missing.json"
    found["long"] = folder / ("n" * 300)
    found["bytes"] = Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.json"))
    found["bytes"].write_bytes(b"{")
    found["device"] = Path("/dev/null")
    for name, spoiled in {
        "recipe.yaml": b"language: [",
        "config.json": b"\xff\xfe{",
        "model.safetensors": contents["pointer"],
    }.items():
        found[f"folder of {name}"] = folder / f"folder-{name}"
        found[f"folder of {name}"].mkdir()
        (found[f"folder of {name}"] / name).write_bytes(spoiled)
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return broken(tmp_path_factory.mktemp("fuzz") / "broken")


@pytest.fixture(scope="module")
def fitting(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Words that are right, by the names of parameters."""
    folder = tmp_path_factory.mktemp("right")
    picture = folder / "scene.png"
    Scenes(1000, "heldout").question("list", 0).media("image")[0].data.save(picture)
    row = {"id": "a", "image": "scene.png", "conversations": []}
    row["conversations"] = [
        {"from": "human", "value": "<image>\nHi?"},
        {"from": "gpt", "value": "Yes."},
    ]
    rows = folder / "rows.json"
    rows.write_text(json.dumps([row]))
    tiny = [str(tiny_folder)]
    return {
        "model": tiny,
        "source": tiny,
        "a": tiny,
        "b": tiny,
        "recipe": ["nano"],
        "data": [str(rows)],
        "image": [str(picture)],
        "repo": ["me/mine"],
        "language": tiny,
        "vision": tiny,
        "runs": tiny,
        "file": [str(folder / "no.yaml")],
        "point": ["2,2"],
    }


def line(command: str, name: str, value: str, fitting: dict[str, list[str]]) -> list[str]:
    """A command line that is right but for one value."""
    words: list[str] = []
    for param in COMMANDS[command].params:
        option = param.opts[0] if param.param_type_name == "option" else None
        if param.name == name:
            given = value
        elif param.required or (command, param.name) in {("segment", "point"), ("chat", "ask")}:
            given = fitting.get(param.name, ["new"])[0]
        else:
            continue
        words += [f"{option}={given}"] if option else [given]
    return [command, *words]


def run(words: list[str]) -> Result:
    return CliRunner().invoke(app, words, input="")


def told(result: Result, words: list[str]) -> None:
    """It failed, and says why in words of people."""
    shown = f"{words}\n{result.output}"
    assert result.exit_code in (1, 2), shown
    assert result.stderr.strip(), shown
    assert not PYTHON.search(result.stderr), shown
    if result.stderr.startswith("error: "):
        assert result.stderr.count("\n") == 1, shown
    else:  # a usage error, in a frame
        assert "Usage:" in result.stderr, shown


def values(command: str, *kinds: str) -> Iterator[str]:
    """Names of a command's parameters that take a value of a kind: file, number, written."""
    for param in COMMANDS[command].params:
        number = param.type_descriptor.annotation in (int, float)
        flag = getattr(param, "is_flag", False) or param.name == "resume"
        if flag:
            continue
        written = param.name in WRITTEN or (command, param.name) == ("new", "folder")
        kind = "number" if number else "written" if written else "text" if param.name in TEXTS else "file"
        if kind in kinds:
            yield str(param.name)


def cases(*kinds: str) -> list[Any]:
    return [
        pytest.param(command, name, id=f"{command} {name}")
        for command in COMMANDS
        for name in values(command, *kinds)
    ]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of its own, and without a server that would wait for requests."""
    monkeypatch.chdir(tmp_path)

    def started(*_: Any) -> None:
        raise SystemExit(0)

    monkeypatch.setattr("omnimix.serve.running.run", started)


@pytest.mark.parametrize(("command", "name"), cases("file"))
def test_broken_files(
    command: str, name: str, files: dict[str, Path], fitting: dict[str, list[str]]
) -> None:
    for file in files.values():
        words = line(command, name, str(file), fitting)
        told(run(words), words)
