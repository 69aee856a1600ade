"""Every command with broken files in every argument and wrong words in every option: a sentence, and exit code 1 or 2.

Commands and their parameters are read off the application, so that a new one is tested without a line here.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from inspect import unwrap
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from omnimix.cli.main import app
from omnimix_scenes import Scenes

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]

PLACES = {
    "model",
    "source",
    "a",
    "b",
    "recipe",
    "image",
    "items",
    "region",
    "sample",
    "data",
    "language",
    "vision",
}
"""Parameters that take a file or folder and are no `Path`, since they take names too."""

ANYTHING = {
    "ask",
    "grep",
    "licence",
    "endpoint",
    "allow_host",
    "feature_cache",
    "name",
    "root_path",
    "made_from",
    "allow",
    "tasks",
    "seed",
    "out",
    "draw",
}
"""Parameters with a value for every taste."""

ROUGH = {"soup": 6, "evaluate": 8, "check": 14, "chat": 14, "predict": 14, "serve": 14}
"""Commands that read a model before anything else get fewer kinds of broken files."""

PYTHON = re.compile(
    r"Traceback|\b[A-Z]\w*(?:Error|Exception|Iteration|Interrupt)\b|unexpected keyword|positional argument"
    r"|object has no attribute|NoneType|inline_container|errno|header too large|--debug",
    re.IGNORECASE,
)
"""What only those who wrote the program can read."""


WRITTEN = {("new", "folder"), ("export", "vllm"), ("export", "gguf")}
"""Places that a command makes, besides those of the same name everywhere."""

ALSO = {
    ("segment", "point"),
    ("chat", "ask"),
    ("new", "vision"),
    ("evaluate", "data"),
    ("evaluate", "metric"),
}
"""Options without which a command stops before it comes to the others."""


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
        elif param.required or param.name in ("model", "dry_run") or (command, param.name) in ALSO:
            given = fitting.get(param.name, ["new"])[0]
        else:
            continue
        if getattr(param, "is_flag", False):
            words.append(str(option))
        else:
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
    last = result.stderr.splitlines()[-1]
    if "Usage:" not in result.stderr and words[0] != "check":  # rows are told of one by one
        assert last.startswith("error: ") and result.stderr.count("error: ") == 1, shown


def kind(command: str, param: Any) -> str:
    """What a parameter takes: a flag, a number, what is written, a file or a text."""
    # Of our own function: where typer keeps it is another place in 0.26 than in 0.29.
    hints = get_type_hints(unwrap(COMMANDS[command].callback))
    type_ = str(hints.get(param.name, "bool"))
    if "bool" in type_:
        return "flag"
    if "int" in type_ or "float" in type_:
        return "number"
    if param.name in ("out", "draw") or (command, param.name) in WRITTEN:
        return "written"
    return "file" if "Path" in type_ or param.name in PLACES else "text"


def cases(*kinds: str) -> list[Any]:
    return [
        pytest.param(command, param.name, id=f"{command} {param.name}")
        for command in COMMANDS
        for param in COMMANDS[command].params
        if kind(command, param) in kinds and param.name not in ANYTHING
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
    step = -(-len(files) // ROUGH.get(command, len(files)))
    for file in list(files.values())[len(name) % step :: step]:
        if (command, name) == ("serve", "root") and os.path.isdir(file):  # noqa: PTH112 (a long name is an error of Path)
            continue
        words = line(command, name, str(file), fitting)
        told(run(words), words)


@pytest.mark.parametrize(("command", "name"), cases("text", "number"))
def test_odd_words(command: str, name: str, fitting: dict[str, list[str]]) -> None:
    for value in ("", "=", "nope=", "[", "\udcff", "\0", "nan", "a" * 5000):
        words = line(command, name, value, fitting)
        told(run(words), words)


@pytest.mark.parametrize(("command", "name"), cases("number"))
def test_numbers_out_of_range(command: str, name: str, fitting: dict[str, list[str]]) -> None:
    for value in ("-1", "-1e400", "inf"):
        words = line(command, name, value, fitting)
        told(run(words), words)
    words = line(command, name, "9" * 400, fitting)  # no limit at all, where it is one
    result = run(words)
    if result.exit_code:
        told(result, words)


@pytest.mark.parametrize(("command", "name"), cases("written"))
def test_places_that_cannot_be_written(
    command: str, name: str, files: dict[str, Path], fitting: dict[str, list[str]]
) -> None:
    for place in ("/dev/full", files["below a file"], files["long"], "/proc/new", "nul\0"):
        words = line(command, name, str(place), fitting)
        if (command, name) == ("plot", "out"):
            words[-1] += ".svg"
        told(run(words), words)


def test_the_disk_is_full_while_a_model_is_written(tiny_folder: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for words in (
        ["convert", str(tiny_folder), "new"],
        ["soup", *[str(tiny_folder)] * 2, "--out=new"],
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            result = run(words)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        told(result, words)
        assert "File too large" in result.stderr
        assert list(tmp_path.iterdir()) == []  # no half of a model


def omnimix(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    code = "from omnimix.cli.main import run; run()"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        **options,
    )


def test_a_full_disk_behind_the_output() -> None:
    with Path("/dev/full").open("w") as full:
        done = omnimix("models", stdout=full)
    assert (done.returncode, done.stderr) == (
        2,
        "error: standard output: No space left on device.\n",
    )


def test_work_goes_on_when_its_reader_went_away(tiny_folder: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = omnimix("convert", str(tiny_folder), str(tmp_path / "new"), stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "new" / "certificate.json").is_file()


def test_names_that_are_no_utf8_are_printed(files: dict[str, Path]) -> None:
    done = omnimix(
        "segment", os.fspath(files["bytes"]) + "x", "--point=1,1", stdout=subprocess.DEVNULL
    )
    assert done.returncode == 2
    assert "\\udcff" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_options_name_the_nearest(command: str) -> None:
    for param in COMMANDS[command].params:
        if param.param_type_name == "option":
            option = param.opts[0]
            result = run([command, f"{option[:-1]}~{option[-1]}"])
            assert result.exit_code == 2
            assert option in result.stderr
