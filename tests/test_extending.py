"""What docs/extending.md promises: a backbone, a style and a connector, without touching the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
FILE = re.compile(
    r"<!-- file: (?P<name>\S+) -->\n(?:<!-- skip: [^\n]* -->\n)?```\w+\n(?P<text>.*?)^```$",
    re.M | re.S,
)

CODE = """
import json, sys
import torch
from omnimix.compose import recipe as recipes
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix_scenes import Scenes

recipe = recipes.load(sys.argv[1])
processor = Processor.from_recipe(recipe)
torch.manual_seed(0)
model = MultimodalLM.from_recipe(recipe)
batch = processor(Scenes(seed=0, tasks=["attribute"])[0])
output = model(**batch.inputs(), labels=batch.labels)
output.loss.backward()
print(json.dumps({
    "loss": output.loss.item(),
    "tokens": model.tokens_per_tile,
    "text": processor.weave.tokenizer.decode(batch.input_ids[0].tolist()),
    "learns": [name for name, p in model.named_parameters() if p.grad is not None],
}))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files, and with the entry point that installing them would write."""
    folder = tmp_path_factory.mktemp("mine")
    for found in FILE.finditer(PAGE.read_text(encoding="utf-8")):
        (folder / found["name"]).write_text(found["text"])
    points = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = [
        f"[{group}]\n{name} = {at}" for group, rows in points.items() for name, at in rows.items()
    ]
    info = folder / "mine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


def run(place: Path, *words: str) -> str:
    path = os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=place,
        env={**os.environ, "PYTHONPATH": path},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_has_these_files_and_no_other() -> None:
    names = [found["name"] for found in FILE.finditer(PAGE.read_text(encoding="utf-8"))]
    assert names == [
        *("eyes.yaml", "letter.yaml", "my_parts.py", "pyproject.toml", "gated.yaml"),
        *("my_pulse.py", "pulse.yaml", "learn_pulse.py"),
    ]


def test_a_backbone_a_style_and_a_connector_work(place: Path) -> None:
    import json

    eyes = json.loads(run(place, "-c", CODE, "eyes.yaml"))
    assert eyes["tokens"]["image"] == 49
    assert any(
        name.startswith("image.branches.0.encoders.0.trunk.stages") for name in eyes["learns"]
    )
    letter = json.loads(run(place, "-c", CODE, "letter.yaml"))
    assert letter["text"].count("Dear model, ") == letter["text"].count("Yours: ") > 0
    gated = json.loads(run(place, "-c", CODE, "gated.yaml"))
    assert any(name.startswith("region.branches.0.connector.gate") for name in gated["learns"])
    assert all(found["loss"] > 0 for found in (eyes, letter, gated))


def test_a_name_that_nobody_registered_is_refused(place: Path) -> None:
    words = ["-c", "from omnimix.cli.main import run; run()", "show", "gated.yaml"]
    assert "gated" in run(place, *words)
    changed = (place / "gated.yaml").read_text().replace("kind: gated", "kind: gatet")
    (place / "wrong.yaml").write_text(changed)
    done = subprocess.run(
        [sys.executable, *words[:-1], "wrong.yaml"],
        capture_output=True,
        text=True,
        check=False,
        cwd=place,
        env={**os.environ, "PYTHONPATH": f"{place}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )
    assert done.returncode == 2
    assert "did you mean 'gated'?" in done.stderr + done.stdout


def test_a_new_sense_learns_and_answers(place: Path) -> None:
    """The medical signal, from data to answer: the loss falls and unseen pulses are told apart."""
    lines = run(place, "learn_pulse.py").splitlines()
    losses = [float(line.split()[-1]) for line in lines if line.startswith("step ")]
    assert len(losses) == 60
    assert sum(losses[-5:]) / 5 < 0.2 * sum(losses[:5]) / 5
    answers = [line.split() for line in lines if not line.startswith("step ")]
    assert len(answers) == 8 and {word for _, word in answers} == {"slow", "fast"}
    assert all(said == word for said, word in answers)


def test_a_new_sense_is_short(place: Path) -> None:
    """Under 60 lines of code, without words about it, imports and empty lines."""
    count = 0
    for name in ("my_pulse.py", "pulse.yaml", "learn_pulse.py"):
        lines = (line.strip() for line in (place / name).read_text().splitlines())
        count += sum(
            bool(line) and not line.startswith(("import ", "from ", "#", '"""')) for line in lines
        )
    assert count < 60


def test_a_signal_that_is_none_is_refused(place: Path) -> None:
    code = (
        "import my_pulse, numpy as np\n"
        "from omnimix.errors import MediaError\n"
        "from omnimix.types import Media\n"
        "try: my_pulse.PulseOpener().open(Media('pulse', np.zeros(9), label='bed 4'))\n"
        "except MediaError as error: print(error)\n"
    )
    assert run(place, "-c", code) == "bed 4: a pulse is 256 numbers.\n"
