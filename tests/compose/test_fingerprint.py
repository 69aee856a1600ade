"""A saved model says when a library prepares its items or its prompt otherwise, and which step it is."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from omnimix.compose import fingerprint
from omnimix.compose.processor import Processor
from omnimix.language import tokenizer
from omnimix.media.steps import Pad, Resize
from omnimix.media.tensor_steps import Normalize
from omnimix.prompts.template import Template


def said(folder: Path) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Processor.from_pretrained(folder)
    kind = fingerprint.MovedPreprocessingWarning
    return [str(one.message) for one in caught if issubclass(one.category, kind)]


def nearest(own: Any) -> Any:
    return lambda self, picture: picture.resize((self.size, self.size), Image.Resampling.NEAREST)


def a_level_off(own: Any) -> Any:
    def change(self: Any, picture: Image.Image) -> Image.Image:
        pixels = np.asarray(own(self, picture)).astype(int)
        return Image.fromarray(
            np.clip(pixels + (np.indices(pixels.shape).sum(0) % 3 - 1), 0, 255).astype("uint8")
        )

    return change


def scaled(factor: float) -> Callable[[Any], Any]:
    return lambda own: lambda self, pixels: own(self, pixels) * factor


def border(own: Any) -> Any:
    def change(self: Any, picture: Image.Image) -> Image.Image:
        made = own(self, picture)
        return made.transform(made.size, Image.Transform.AFFINE, (1, 0, 0, 0, 1, 1))

    return change


def others(own: Any) -> Any:
    return lambda self, text, *a, **k: own(self, text.replace("1,024", "1024"), *a, **k)


def without_last(own: Any) -> Any:
    return lambda self, *a, **k: own(self, *a, **k)[:-1]


@pytest.mark.parametrize(
    ("owner", "method", "change", "named"),
    [
        (Resize, "picture", nearest, ["resize (modalities.image.steps[1]): numbers up to"]),
        (Pad, "picture", border, ["pad (modalities.image.steps[0]): numbers up to"]),
        (
            Normalize,
            "on_tensor",
            scaled(255 / 256),
            ["normalize (modalities.image.branches[0].encoders[0].steps[0])"],
        ),
        (tokenizer._Fast, "encode", others, ["tokenizer: other ids from"]),
        (Template, "pieces", without_last, ["template: other ids from"]),
        # What rounding does: a level of 255, carried on by the steps behind it; the last bits of a number.
        (Resize, "picture", a_level_off, []),
        (Normalize, "on_tensor", scaled(1 + 1e-6), []),
    ],
)
def test_the_step_that_moved_is_named(
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    method: str,
    change: Any,
    named: list[str],
) -> None:
    assert said(tiny_folder) == []
    monkeypatch.setattr(owner, method, change(getattr(owner, method)))
    found = said(tiny_folder)
    assert len(found) == len(named)
    for message, words in zip(found, named, strict=True):
        assert words in message and "the libraries are the same" in message
        assert (
            sum(message.count(f"{one}: ") for one in ("resize", "pad", "tokenizer", "template"))
            <= 1
        )
        assert message.count("modalities.") == words.count(
            "modalities."
        )  # what follows from it is not named


def test_versions_are_said_and_nothing_of_a_folder_without_it(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    kept = json.loads((folder / fingerprint.FILE).read_text())
    kept["libraries"]["pillow"] = "9.0"
    (folder / fingerprint.FILE).write_text(json.dumps(kept))
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("bilinear", "nearest"))
    (message,) = said(folder)
    assert (
        "resize" in message
        and "pillow 9.0 then" in message
        and "recipe.yaml was changed" in message
    )
    (folder / fingerprint.FILE).write_text("{")
    assert "fingerprint.json cannot be read" in said(folder)[0]
    (folder / fingerprint.FILE).unlink()
    monkeypatch.setattr(fingerprint, "stages", lambda *_: pytest.fail("nothing to compare with"))
    assert said(folder) == []


def test_numbers_of_every_kind_are_kept() -> None:
    """An edge of one pixel lies between the places, and is seen in the means; that of an array's end as well."""
    picture = np.zeros((224, 224, 3), np.uint8)
    other = picture.copy()
    other[:, 0] = 90
    a, b = ([{"step": "x", "chain": "x", **fingerprint.summary([one])}] for one in (picture, other))
    assert fingerprint.moved(a, b) and not fingerprint.moved(a, a)
    things = fingerprint.golden()
    assert set(things) == {"image", "video", "audio", "document"}
    numbers = fingerprint.summary([torch.arange(1000.0).numpy()])["numbers"]
    assert len(set(numbers)) == fingerprint.KEPT and max(numbers) > 980 and min(numbers) < 20
