"""The first stage in which two models differ is named."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from omnimix.cli.main import app
from omnimix.compose import recipe as recipes
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.evaluate.differ import differences, first_of_all
from omnimix.generate.assistant import Assistant
from omnimix.types import Media, Sample, Turn


@pytest.fixture
def asked(tmp_path: Path) -> Sample:
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "a.png")
    return Sample((Turn("user", (Media.image(tmp_path / "a.png"), "What is this?")),))


@pytest.mark.parametrize(
    ("changed", "stage"),
    [("", None), ("image.", "features"), ("embed_tokens", "embeddings"), ("layers", "logits")],
)
def test_the_first_stage(
    tiny_model: MultimodalLM,
    tiny_processor: Processor,
    asked: Sample,
    changed: str,
    stage: str | None,
) -> None:
    other = copy.deepcopy(tiny_model)
    with torch.no_grad():
        for name, weight in other.named_parameters():
            if changed and changed in name:
                weight.add_(torch.linspace(-1, 1, weight.numel()).reshape(weight.shape))
    found = differences(
        Assistant(tiny_model, tiny_processor), Assistant(other, tiny_processor), asked
    )
    assert [one.stage for one in found][:3] == ["prompt", "ids", "pixels"]
    first = first_of_all(found)
    assert (first and first.stage) == stage, found


def test_the_step_from_which_pixels_differ(
    tiny_model: MultimodalLM, tiny_processor: Processor, asked: Sample
) -> None:
    """The same steps as in a model's fingerprint, on the pixels of this question."""
    text = recipes.dump(tiny_processor.recipe)
    others: list[tuple[int, dict[str, Any], str]] = [
        (1, {"interpolation": "nearest"}, "from resize (modalities.image.steps[1]): "),
        (
            0,
            {"kind": "crop"},
            "from pad (modalities.image.steps[0]) in the one, crop",
        ),
    ]
    for at, words, said in others:
        changed = yaml.safe_load(text)
        steps = changed["modalities"]["image"]["steps"]
        steps[at] = {**(steps[at] if at else {"size": 20}), **words}
        processor = tiny_processor.with_recipe(recipes.parse(changed, "changed"))
        found = differences(
            Assistant(tiny_model, tiny_processor), Assistant(tiny_model, processor), asked
        )
        first = first_of_all(found)
        assert first and first.stage == "pixels" and said in first.said


def test_the_command(tiny_folder: Path, tmp_path: Path, asked: Sample) -> None:
    words = ["diff", str(tiny_folder), str(tiny_folder), "--sample", str(tmp_path / "a.png")]
    same = CliRunner().invoke(app, words)
    assert same.exit_code == 0 and same.output.count("same") == 7, same.output
    rough = CliRunner().invoke(app, [*words, "--dtype-b", "bfloat16", "--tolerance", "1e-6"])
    assert rough.exit_code == 1 and "first to differ: features" in rough.output, rough.output
    assert CliRunner().invoke(app, [*words, "--dtype-b", "float99"]).exit_code == 2
