"""The commands, and how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import omnimix
from omnimix import config
from omnimix.cli import models
from omnimix.cli.guard import joined
from omnimix.cli.items import as_items
from omnimix.cli.main import app
from omnimix.compose import recipe as recipes
from omnimix.media.image import ImageOpener
from omnimix_scenes import Scenes


def run(*words: object, text: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], input=text)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    Scenes(1000, "heldout").question("list", 0).media("image")[0].data.save(path)
    return path


def test_one_shot_json(tiny_folder: Path, picture: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.png"
    words = ["--box", 4, 6, 60, 70, "--ask", "What is in the box?", "--max-new-tokens", 4]
    result = run("chat", tiny_folder, "--image", picture, *words, "--json", "--draw", drawn)
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert {"answer", "boxes", "points", "drawn", "model", "seconds"} <= data.keys()
    assert data["drawn"] == str(drawn)
    with Image.open(drawn) as opened:
        assert max(opened.size) >= 448


def test_turns_follow_each_other(tiny_folder: Path, picture: Path) -> None:
    words = ["--point", "10,20", "--ask", "What is here?", "--ask", "And more?"]
    result = run("chat", tiny_folder, "--image", picture, *words, "--max-new-tokens", 3, "--json")
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["turns"]) == 2


def test_the_interactive_chat(
    tiny_folder: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [
        "/help",
        "/box 1 2 3 4",  # no picture yet
        f"/image {picture}",
        "/box 9000 2 9030 40",  # off the picture
        "/box 1 2 30 40",
        '/region {"polygon": [[1, 2], [30, 2], [9, 30]]}',
        "What is in the box?",
        "/draw x.png",
        "/dance",
        "/image nowhere.png",
        "/new",
        "Hello?",
        "/quit",
    ]
    result = run("chat", tiny_folder, "--max-new-tokens", 4, text="\n".join(lines))
    assert result.exit_code == 0, result.output
    assert "a region needs a picture" in result.output
    assert "lies outside the picture" in result.output
    assert "unknown command '/dance'" in result.output
    assert "no such picture" in result.output
    assert (tmp_path / "x.png").is_file()


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("sphinx_v", ["5 tiles x 291 = 1455", "12 (up to 10"]),
        ("multi_token", ["1 tile x 576 = 576"]),
        ("xgen_mm", ["128 per tile"]),
        ("prism_dinosiglip", ["1 tile x 729 = 729"]),
        ("nano", ["1 tile x 49 = 49", " M parameters = "]),
    ],
)
def test_show_counts_tokens(name: str, numbers: list[str]) -> None:
    result = run("show", name)
    assert result.exit_code == 0, result.output
    assert "cannot be built" not in result.output
    for number in numbers:
        assert number in result.output


def test_show_says_how_regions_get_in() -> None:
    assert (
        "as tokens of their own; coordinates written as sphinx_v" in run("show", "sphinx_v").output
    )
    marked = run("show", "multi_token", "--set", "marks={}")
    assert "as numbered marks on the picture" in marked.output


def test_any_region_any_way(tiny_folder: Path, picture: Path, tmp_path: Path) -> None:
    file = tmp_path / "regions.json"
    file.write_text(json.dumps([{"point": [9, 9]}, {"stroke": [[1, 1], [20, 20]]}]))
    for way in ("tokens", "text", "marks"):
        words = ["--region", file, "--regions-as", way, "--ask", "What is here?", "--json"]
        drawn = ["--max-new-tokens", 3, "--draw", tmp_path / "d.png"]
        result = run("chat", tiny_folder, "--image", picture, *words, *drawn)
        assert result.exit_code == 0, result.output
        assert {"regions", "skipped"} <= json.loads(result.stdout).keys()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--box", 4000, 10, 4100, 60], "lies outside the picture"),
        (["--box", 10, 10, 10, 60], "has no extent"),
        (["--region", '{"polygon": [[1, 2]]}'], "at least 3 points"),
        (["--region", "{"], "no JSON"),
        (["--region", "nowhere.json"], "cannot read the regions"),
        (["--point", 1, 2, "--regions-as", "lines"], "ways are tokens, text, marks"),
    ],
)
def test_bad_regions_are_refused(
    tiny_folder: Path, picture: Path, words: list[object], said: str
) -> None:
    result = run("chat", tiny_folder, "--image", picture, *words, "--ask", "What is it?")
    assert result.exit_code == 2
    assert said in " ".join(result.output.split()), result.output


def test_show_as_json_and_schema() -> None:
    data = json.loads(run("show", "nano", "--json").stdout)
    assert data["tokens"]["image"]["per_item"] == 49
    assert data["parameters"]["total"] == sum(
        size for part, size in data["parameters"].items() if part != "total"
    )
    assert "properties" in json.loads(run("show", "--schema").stdout)


def test_parts_that_cannot_be_built_are_named() -> None:
    broken = "modalities.image.branches.0.encoders.0.model=vit_of_nowhere"
    result = run("show", "nano", "--set", broken)
    assert result.exit_code == 0, result.output
    assert "cannot be built" in result.output
    assert "language" in result.output


def test_the_token_map(picture: Path, tmp_path: Path) -> None:
    result = run("show", "nano", "--sample")
    assert result.exit_code == 0, result.output
    assert "image: 49" in result.output
    assert "of them learned" in result.output
    parts = [{"image": str(picture.name)}, "What is in ", {"box": [1, 2, 30, 40]}, "?"]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": ["a moon"]}]
    for suffix, indent in (("json", 2), ("jsonl", None)):
        file = picture.parent / f"record.{suffix}"
        file.write_text(json.dumps({"id": "7", "turns": turns}, indent=indent))
        result = run("show", "nano", "--sample", file)
        assert result.exit_code == 0, result.output
        assert "region: 1" in result.output
        assert "a moon" in result.output


def test_evaluate(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    words = ["--limit", 2, "--tasks", "count,attribute", "--swap-pictures"]
    result = run("evaluate", tiny_folder, "scenes", *words, "--json", "--out", out)
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert list(data["tasks"]) == ["count", "attribute"]
    assert json.loads(out.read_text()) == data
    plain = run("evaluate", tiny_folder, "scenes", "--limit", 2, "--tasks", "count")
    assert plain.exit_code == 0, plain.output
    assert "count" in plain.stdout


def test_models_lists_what_ships() -> None:
    result = run("models", "--json")
    assert result.exit_code == 0, result.output
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert rows["nano"]["weights"] and not rows["sphinx"]["weights"]
    assert rows["nano"]["tokens"] == "49"
    assert rows["multi_token"]["tokens"] == "576"
    assert "nano" in run("models").stdout


@pytest.mark.parametrize("name", recipes.names())
def test_the_written_counts_are_true(name: str) -> None:
    """After a change of a recipe: `python -m omnimix.cli.models` writes them anew."""
    assert set(models.written()) == set(recipes.names())
    assert models.written()[name] == json.loads(json.dumps(models.counted(name)))


def test_models_lists_released_ones() -> None:
    rows = json.loads(run("models", "--family", "prismatic", "--json").stdout)
    assert len(rows) == 49 and {row["family"] for row in rows} == {"prismatic"}
    found = {row["name"]: row for row in rows}["prism-dinosiglip+7b"]
    assert (found["language"], found["licence"]) == ("Llama-2 7B", "MIT")
    table = run("models", "--grep", "xgen").stdout
    assert "xgen-mm-phi3-mini-base-r-v1.5" in table and "arXiv 2408.08872" in table
    assert "prism-clip" not in table
    assert "no model has 'zebra'" in run("models", "--grep", "zebra").stdout


def test_the_list_of_models_needs_no_torch() -> None:
    code = (
        "import sys; from omnimix.cli.main import run\n"
        "try:\n    run()\nexcept SystemExit as end:\n"
        "    assert 'torch' not in sys.modules; sys.exit(end.code)"
    )
    command = [sys.executable, "-c", code, "models"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "prism-dinosiglip+7b" in done.stdout


def bad(tiny: Path, picture: Path, folder: Path) -> dict[str, tuple[list[object], str]]:
    """Command lines that a user gets wrong, with a word of the sentence that answers them."""
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    (folder / "wrong").mkdir()
    image = ["--image", picture]
    return {
        "missing picture": (["chat", tiny, "--image", "no.png", "--ask", "hi"], "no.png"),
        "broken picture": (
            ["chat", tiny, "--image", folder / "broken.png", "--ask", "hi"],
            "broken.png",
        ),
        "region outside": (
            ["chat", tiny, *image, "--box", 4000, 1, 5000, 9, "--ask", "What is in the box?"],
            "lies outside the picture",
        ),
        "empty region": (
            ["chat", tiny, *image, "--box", 9, 9, 1, 1, "--ask", "What is in the box?"],
            "no extent",
        ),
        "too many items": (["chat", tiny, *image * 3, "--ask", "hi"], "places for 2"),
        "too long": (["chat", tiny, "--ask", "hi " * 1000], "more than the context of 1024"),
        "wrong folder": (["chat", folder / "wrong", "--ask", "hi"], "no model"),
        "unknown model": (["chat", "nanoo", "--ask", "hi"], "unknown model"),
        "unknown family": (["models", "--family", "prismatik"], "Did you mean 'prismatic'"),
        "unknown release": (["chat", "phi-2-3b", "--ask", "hi"], "Did you mean 'phi-2+3b'"),
        "unknown recipe": (["show", "nanoo"], "Did you mean 'nano'"),
        "unknown word": (
            ["show", "nano", "--set", "modalities.image.branchez=1"],
            "did you mean 'branches'",
        ),
        "unknown kind": (
            ["show", "nano", "--set", "modalities.image.branches.0.connector.kind=mpl"],
            "did you mean 'mlp'",
        ),
        "unknown benchmark": (["evaluate", tiny, "scenez"], "Did you mean 'scenes'"),
        "unknown task": (["evaluate", tiny, "scenes", "--tasks", "cuont"], "Did you mean 'count'"),
        "no tokenizer": (["show", "sphinx", "--sample"], "names no tokenizer"),
        "no sample file": (["show", "nano", "--sample", "no.jsonl"], "no.jsonl"),
        "few numbers": (["chat", tiny, *image, "--box", 1, 2, "--ask", "hi"], "takes 4 numbers"),
        "region alone": (["chat", tiny, "--box", 1, 2, 3, 4, "--ask", "hi"], "--image"),
        "drawing nowhere": (
            ["chat", tiny, *image, "--ask", "hi", "--max-new-tokens", 1, "--draw", "no/a.png"],
            "cannot write the drawing",
        ),
        "temperature": (["chat", tiny, "--ask", "hi", "--temperature", -1], "temperature"),
    }


CASES = [
    "missing picture",
    "broken picture",
    "region outside",
    "empty region",
    "too many items",
    "too long",
    "wrong folder",
    "unknown model",
    "unknown family",
    "unknown release",
    "unknown recipe",
    "unknown word",
    "unknown kind",
    "unknown benchmark",
    "unknown task",
    "no tokenizer",
    "no sample file",
    "few numbers",
    "region alone",
    "drawing nowhere",
    "temperature",
]


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_sentence(
    case: str, tiny_folder: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = bad(tiny_folder, picture, tmp_path)
    assert list(cases) == CASES
    monkeypatch.chdir(tmp_path)
    words, wanted = cases[case]
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert wanted in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output


def test_debug_shows_the_traceback_anywhere_on_the_line() -> None:
    for words in (("--debug", "show", "nanoo"), ("show", "nanoo", "--debug")):
        result = run(*words)
        assert result.exit_code == 2
        assert "Traceback" in result.stderr


def test_unknown_options_are_usage_errors() -> None:
    result = run("chat", "--bax")
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [(KeyboardInterrupt(), 130, ""), (ZeroDivisionError("oh"), 1, "run again with --debug")],
)
def test_other_ends(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr("omnimix.cli.counts_written.written", broken)
    result = run("show", "nano")
    assert result.exit_code == code
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_numbers_join() -> None:
    assert joined(["--box", "1", "2", "-3", "4", "--ask", "5"]) == ["--box=1,2,-3,4", "--ask", "5"]
    assert joined(["--box", "1,2,3,4"]) == ["--box", "1,2,3,4"]
    assert joined(["show", "--sample"]) == ["show", "--sample=scenes"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--help"], "evaluate"),
        (["show", "nano"], "49 tokens"),
        (["show", "sphinx_1k", "--json"], '"per_tile"'),
    ],
)
def test_the_console_script_and_its_speed(words: list[str], says: str) -> None:
    """Neither help nor a shipped recipe's numbers import torch."""
    code = (
        "import sys; from omnimix.cli.main import run\n"
        "try:\n    run()\nexcept SystemExit as end:\n"
        "    assert 'torch' not in sys.modules; sys.exit(end.code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        env=os.environ | {"NO_COLOR": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert says in done.stdout


def test_errors_outside_the_runner() -> None:
    code = "from omnimix.cli.main import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", code, "show", "nanoo"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "error: unknown recipe 'nanoo'. Did you mean 'nano'?\n"
    assert done.stdout == ""


def test_a_folder_of_nobody_is_refused_by_what_lies_in_it(tmp_path: Path) -> None:
    (tmp_path / "rnn.ckpt").write_bytes(b"0")
    (tmp_path / "config.yaml").write_bytes(b"0")
    result = CliRunner().invoke(app, ["show", str(tmp_path)])
    assert result.exit_code == 2, result.output
    assert "no checkpoint of a known family" in result.output.replace("\n", " ")
    assert "unknown recipe" not in result.output


def test_a_picture_is_opened_once(
    tiny_folder: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Marks are checked, questions woven and answers drawn on the one picture that was opened."""
    opens: list[object] = []
    decode, read = Image.open, ImageOpener.open
    monkeypatch.setattr(Image, "open", lambda *a, **k: opens.append("decoded") or decode(*a, **k))
    monkeypatch.setattr(
        ImageOpener, "open", lambda self, media: opens.append(media.data) or read(self, media)
    )
    words = ["--image", picture, "--box", 1, 2, 30, 40, "--ask", "What is in the box?"]
    more = ["--ask", "And beside it?", "--draw", tmp_path / "x.png", "--max-new-tokens", 3]
    for way in ("tokens", "text", "marks"):
        opens.clear()
        result = run("chat", tiny_folder, *words, *more, "--regions-as", way)
        assert result.exit_code == 0, result.output
        # A picture that marks were drawn on is another one, made of the first for every question.
        assert [one for one in opens if not isinstance(one, Image.Image)] == [picture, "decoded"], (
            way
        )
        assert (tmp_path / "x.png").is_file()


def test_items_keep_their_order() -> None:
    words = ["nano", "--image", "a.png", "--item", "pulse=p", "--audio=b.wav", "--image"]
    assert as_items(words) == [
        "nano",
        "--item=image=a.png",
        "--item",
        "pulse=p",
        "--item=audio=b.wav",
        "--image",
    ]


def test_a_shipped_model_is_asked_about_its_picture_where_none_is_given() -> None:
    result = run("chat", "nano", "--ask", "How many things are there?", "--max-new-tokens", 4)
    assert result.exit_code == 0
    assert result.stdout.strip() == "4"
    assert "this is about the demo picture" in result.stderr
    shipped = Path(omnimix.__file__).parent / "models" / "nano" / "scene.png"
    assert shipped.read_bytes() == Path("examples/scene.png").read_bytes()


def test_the_shipped_recipes_follow_the_schema() -> None:
    schema = json.loads(run("show", "--schema").stdout)
    check = jsonschema.Draft202012Validator(schema)
    shipped = sorted(path for path in recipes.FOLDER.glob("*.yaml") if "." not in path.stem)
    assert len(shipped) > 10
    for path in shipped:
        words = config.read_yaml(path)
        assert not list(check.iter_errors(words)), path.name
        assert list(check.iter_errors({**words, "modality": {}})), path.name
    words = config.read_yaml(recipes.FOLDER / "nano.yaml")
    words["modalities"]["image"]["branches"][0]["encoders"][0]["kind"] = "tim"
    assert list(check.iter_errors(words))


@pytest.mark.parametrize(
    ("line", "at", "word"),
    [
        ("omnimix ch", 1, "chat"),
        ("omnimix data pr", 2, "prepare"),
        ("omnimix chat --image scene.png --b", 4, "--box"),
    ],
)
def test_the_shell_can_be_taught(line: str, at: int, word: str) -> None:
    assert "--install-completion" in run("--help").stdout
    asked = {"_OMNIMIX_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(at)}
    told = CliRunner().invoke(app, [], prog_name="omnimix", env=asked)
    assert told.exit_code == 0 and word in told.stdout.split()


def test_without_a_word_there_is_help() -> None:
    told = run()
    assert told.exit_code == 2 and "--install-completion" in told.output
