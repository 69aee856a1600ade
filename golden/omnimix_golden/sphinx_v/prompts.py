"""SPHINX-V's cases: prompts as numbers and their vectors, drawings and clicks, the start from SAM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from omnimix.convert.report import Check, close, same
from omnimix.encoders.regions import prompts
from omnimix.families.sphinx import marked as sphinx_v
from omnimix.families.sphinx.marked_records import region_of
from omnimix.families.sphinx.names import REGION
from omnimix.media.image import ImageOpener
from omnimix.media.region import FILLER, RegionOpener, touched
from omnimix.media.tiles import Frame, Tiles
from omnimix.types import Box, Mask, Media
from omnimix_golden.sphinx.case import SphinxCase


def sparse(reading: SphinxCase) -> Iterator[Check]:
    """Rows of prompts, their vectors, and the tokens of them, one by one and in a mixed batch."""
    case, results = reading.case, reading.facts()
    tokens: list[Tensor] = []
    tiles = []
    for i, facts in enumerate(results["sparse_vp"]):
        what = f"vp.{i}"
        tiles.append(tile(reading, facts["image"], facts["vps"]))
        yield from golden(reading, "prompts", f"{what}.sparse", prompts(tiles[-1])[0], exact=True)
        embed, made = encoded(reading, tiles[-1])
        yield from golden(reading, "prompt features", f"{what}.embed", embed[0])
        yield from golden(reading, "prompt tokens", f"{what}.tokens", made[0])
        tokens.append(made)
    mixed = case.get("vp.mixed.tokens")
    if mixed is not None:
        # Points and boxes in one batch, in the order that the case has them.
        listed = reading.request.get("mixed") or results.get("mixed") or range(len(mixed))
        chosen = [tiles[i] for i in listed]
        _, made = encoded(reading, torch.cat(chosen))
        yield close("prompt tokens", "vp.mixed", made, mixed, reading.tolerance("default"))


def golden(
    reading: SphinxCase, stage: str, name: str, found: Tensor, exact: bool = False
) -> Iterator[Check]:
    """A comparison with a golden tensor, where the case has it."""
    wanted = reading.case.get(name)
    if wanted is not None:
        tolerance = 0.0 if exact else reading.tolerance("default")
        yield close(stage, name, found, wanted, tolerance)


def tile(reading: SphinxCase, image: str, vps: Sequence[Sequence[float]]) -> Tensor:
    """The prompts of a call as the encoder gets them; the reference cuts what has no place and checks nothing."""
    spec = reading.release.recipe.modalities[REGION]
    assert isinstance(spec.opens, RegionOpener) and spec.slots is not None
    size, frame = placed(reading, image)
    rows = [spec.opens.encode(region_of(mark), frame, size) for mark in vps[: spec.slots]]
    return torch.stack(rows + [FILLER] * (spec.slots - len(rows)))[None]


def placed(reading: SphinxCase, image: str) -> tuple[tuple[int, int], Frame]:
    """The size of a picture and where it lies after the recipe's steps."""
    spec = reading.release.recipe.modalities["image"]
    assert isinstance(spec.opens, ImageOpener)
    tiles = Tiles.of(spec.opens.open(Media.image(str(reading.inputs / image))))
    for step in spec.steps:
        tiles = step(tiles)
    return tiles.size, tiles.frame


def encoded(reading: SphinxCase, tiles: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors of prompts and what the projection makes of them, `[items, slots, d]`."""
    part: Any = reading.loaded()[0].modality(REGION).branches[0]
    with torch.inference_mode():
        embed = part.encode(0, tiles, None)
        return embed, part.connector(embed, None)


def demo(reading: SphinxCase) -> Iterator[Check]:
    """Drawn layers as boxes, and clicks as points and boxes."""
    facts = reading.facts()["demo"]
    size, frame = placed(reading, facts["image"])
    spec = reading.release.recipe.modalities[REGION]
    assert isinstance(spec.opens, RegionOpener) and spec.slots is not None
    masks = [m for m in (layer(reading.inputs / name) for name in facts["layers"]) if m is not None]
    boxes = [touched(mask, size) for mask in masks]
    corners = [[int(v) for v in box.bounds()] for box in boxes]
    yield same("demo", "layers", corners, facts["freeform_boxes_xyxy"])
    sizes = [[int(b.x1), int(b.y1), int(b.x2 - b.x1), int(b.y2 - b.y1)] for b in boxes]
    yield same("demo", "layers as x, y, w, h", sizes, facts["freeform_xywh"])
    rows = [spec.opens.encode(mask, frame, size) for mask in masks][: spec.slots]
    found = prompts(torch.stack(rows + [FILLER] * (spec.slots - len(rows)))[None])[0]
    yield from golden(reading, "prompts", "demo.freeform_sparse", found, exact=True)
    clicks = facts.get("clicks") or []
    for kind, history in (facts.get("click_history") or {}).items():
        for i, wanted in enumerate(history, start=1):
            made = clicks[:i] if kind == "Point" else _clicked(clicks[:i])
            yield same("demo", f"{kind} after {i} clicks", made, wanted)


def layer(path: Path) -> Mask | None:
    """What is painted on a layer: pixels whose channels do not add up to zero; None for an empty one."""
    with Image.open(path) as picture:
        painted = np.asarray(picture.convert("RGBA")).sum(axis=-1) > 0
    return Mask(painted) if painted.any() else None


def _clicked(clicks: Sequence[Sequence[int]]) -> list[list[int]]:
    """Two clicks in any order are a box; a single one waits."""
    found: list[list[int]] = []
    for first, second in zip(clicks[::2], clicks[1::2], strict=False):
        box = Box(
            min(first[0], second[0]),
            min(first[1], second[1]),
            max(first[0], second[0]),
            max(first[1], second[1]),
        )
        found.append([int(v) for v in box.bounds()])
    return found + [list(clicks[-1])] * (len(clicks) % 2)


def sam(reading: SphinxCase) -> Iterator[Check]:
    """The prompt encoder as SAM starts it."""
    file = next(iter(sorted(reading.inputs.glob("*sam*.pth"))), None)
    if file is None:
        return
    found = reading.foreign(sphinx_v.from_sam(file))
    for key, source in reading.facts()["sam_mapping"].items():
        name = f"llma.vp_encoder.{key}"
        if not source.startswith("prompt_encoder."):
            yield same("start", f"{key} is fresh", name in found, False)
            continue
        wanted = reading.case.get(f"sam.{key}")
        if wanted is not None:
            yield close("start", key, found.get(name), wanted, 0.0)
