"""Prismatic's cases of preprocessing alone, at the true picture sizes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from omnimix.convert.report import Check, close, same
from omnimix.errors import CheckpointError
from omnimix.families.prismatic.recipe import VISION, steps as recipe_steps
from omnimix.media.tiles import Tiles
from omnimix.registry import STEPS
from omnimix.types import Media
from omnimix_golden.prismatic.case import PrismaticCase


def _steps(vision: str, strategy: str, stream: str) -> list[Any]:
    """How pictures are prepared for the encoder that a golden's name speaks of."""
    if vision not in VISION:
        raise CheckpointError(f"the case uses an unknown encoder id {vision!r}")
    size, parts = VISION[vision]
    timm = parts["vision" if stream == "pixel_values" else stream]
    return [
        STEPS.load(words["kind"]).model_validate(words)
        for words in recipe_steps(timm, vision, strategy, size)
    ]


def pictures(reading: PrismaticCase) -> Iterator[Check]:
    """Pictures before normalising by their hash, after it by their numbers."""
    from omnimix.media.image import ImageOpener

    case = reading.case
    tolerance = case.tolerance("pixel_values")
    for name, facts in reading.expected("cases").items():
        vision, strategy, photo, stream = name.split("/")
        opened = ImageOpener().open(Media.image(str(reading.inputs / photo)))
        tiles = Tiles.of(opened)
        padded: list[int] | None = None
        for step in _steps(vision, strategy, stream):
            if step.works_on == "tensor" and "uint8_sha256" in facts:
                pixels = tiles.tensor()[0].permute(1, 2, 0).contiguous()
                found = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
                yield same("pictures", name, found, facts["uint8_sha256"])
            if step.kind == "letterbox":
                padded = list(step.padded(*opened.size))
            tiles = step(tiles)
        if "padded_size_wh" in facts:
            yield same("pictures", f"{name} padded", padded, facts["padded_size_wh"])
        yield from _numbers(reading, name, facts, tiles.tensor()[0], tolerance)


def _numbers(
    reading: PrismaticCase, name: str, facts: dict[str, Any], found: Tensor, tolerance: float
) -> Iterator[Check]:
    if "shape" in facts:
        yield same("pixels", f"{name} shape", list(found.shape), facts["shape"])
    means = {"mean_per_channel": found.mean((1, 2)), "std_per_channel": found.std((1, 2))}
    for word, value in means.items():
        if word in facts:
            yield close("pixels", f"{name} {word}", value, torch.tensor(facts[word]), tolerance)
    if "corner_2x2_of_channel_0" in facts:
        corner = torch.tensor(facts["corner_2x2_of_channel_0"])
        yield close("pixels", f"{name} corner", found[0, :2, :2], corner, tolerance)
    expected = reading.case.get(name)
    if expected is not None:
        yield close("pixels", name, _thinned(found, expected), expected, tolerance)


def _thinned(found: Tensor, expected: Tensor) -> Tensor:
    """Every 12th pixel from row and column 5 on, as these goldens are stored; whole where they are."""
    return found if found.shape == expected.shape else found[:, 5::12, 5::12]


def steps(reading: PrismaticCase) -> Iterator[Check]:
    """The steps of every encoder under every strategy, in the reference's words."""
    for name, expected in reading.expected("transform_steps").items():
        vision, strategy, stream = name.split("/")
        found = _steps(vision, strategy, stream)
        yield same("steps", name, list(_described(found)), [_known(op) for op in expected])


def _described(steps: Any) -> Iterator[dict[str, Any]]:
    for step in steps:
        if step.kind == "normalize":
            yield {"op": "divide_by_255_to_chw_float32"}
            yield {"op": "normalize", "mean": _rounded(step.mean), "std": _rounded(step.std)}
            continue
        if step.kind == "letterbox":
            yield {"op": "pad_to_square", "fill_rgb": list(step.fill)}
        naive = step.kind == "resize"
        yield {
            "op": "resize",
            "size": [step.size] * 2 if naive else step.shortest_edge or step.size,
        }
        yield {"op": "center_crop", "size": [step.size, step.size]}


def _known(op: dict[str, Any]) -> dict[str, Any]:
    """The words of a step that say something; numbers rounded to float32's digits."""
    kept = {word: op[word] for word in ("op", "size", "fill_rgb") if word in op}
    return kept | {word: _rounded(op[word]) for word in ("mean", "std") if word in op}


def _rounded(values: Any) -> list[float]:
    return [round(float(torch.tensor(float(value))), 6) for value in values]
