"""SPHINX-V's cases: prompts as numbers, their vectors, spliced embeddings, logits and answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from omnimix.checkpoints import sphinx_v
from omnimix.compose.batch import Batch
from omnimix.data.mdvp import region_of
from omnimix.encoders.regions import prompts
from omnimix.generate.sphinx_v import SphinxVModel, marked
from omnimix.media.region import FILLER, RegionOpener, touched
from omnimix.media.tiles import Frame, Tiles
from omnimix.types import Box, Mask, Media, Sample
from omnimix.verify.report import Check, close, same

if TYPE_CHECKING:
    from omnimix.verify.sphinx_v import SphinxVReading


def sparse(reading: SphinxVReading) -> Iterator[Check]:
    """Rows of prompts, their vectors, and the tokens of them, one by one and in a mixed batch."""
    case, results = reading.case, reading.results
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
        chosen = [tiles[i] for i in reading.request.get("mixed") or range(len(mixed))]
        _, made = encoded(reading, torch.cat(chosen))
        yield close("prompt tokens", "vp.mixed", made, mixed, reading.case.tolerance("default"))


def golden(
    reading: SphinxVReading, stage: str, name: str, found: Tensor, exact: bool = False
) -> Iterator[Check]:
    """A comparison with a golden tensor, where the case has it."""
    wanted = reading.case.get(name)
    if wanted is not None:
        tolerance = 0.0 if exact else reading.tolerance("default")
        yield close(stage, name, found, wanted, tolerance)


def tile(reading: SphinxVReading, image: str, vps: Sequence[Sequence[float]]) -> Tensor:
    """The prompts of a call as the encoder gets them; the reference cuts what has no place and checks nothing."""
    spec = reading.processor.recipe.modalities[sphinx_v.REGION]
    assert isinstance(spec.opens, RegionOpener) and spec.slots is not None
    size, frame = placed(reading, image)
    rows = [spec.opens.encode(region_of(mark), frame, size) for mark in vps[: spec.slots]]
    return torch.stack(rows + [FILLER] * (spec.slots - len(rows)))[None]


def placed(reading: SphinxVReading, image: str) -> tuple[tuple[int, int], Frame]:
    """The size of a picture and where it lies after the recipe's steps."""
    spec = reading.processor.recipe.modalities["image"]
    tiles = Tiles.of(spec.opens.open(Media.image(str(reading.inputs / image))))  # type: ignore[attr-defined]
    for step in spec.steps:
        tiles = step(tiles)
    return tiles.size, tiles.frame


def encoded(reading: SphinxVReading, tiles: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors of prompts and what the projection makes of them, `[items, slots, d]`."""
    part: Any = reading.model.modality(sphinx_v.REGION).branches[0]
    with torch.inference_mode():
        embed = part.encode(0, tiles, None)
        return embed, part.connector(embed, None)


def conversation(reading: SphinxVReading, facts: Mapping[str, Any], name: str) -> Sample:
    """A request of the case; without prompts the reference shows no picture either."""
    vps = facts.get("vps")
    image = facts.get("image") if vps is not None else None
    slots = reading.processor.recipe.modalities[sphinx_v.REGION].slots
    path = str(reading.inputs / image) if image else None
    qas = [list(pair) for pair in facts["qas"]]
    if qas[-1][1] is None:
        return marked(qas, None if vps is None else vps[:slots], path, name)
    from omnimix.types import Turn

    *before, (question, answer) = qas
    asked = marked([*before, [question, None]], None if vps is None else vps[:slots], path, name)
    return Sample((*asked.turns, Turn("assistant", (answer,))), name)


def conv(reading: SphinxVReading) -> Iterator[Check]:
    """Text, ids, embeddings with everything in its place, and logits of one conversation."""
    facts = reading.results["conv"]
    sample = conversation(reading, facts, "conv")
    processor = reading.processor
    if "text" in facts:
        yield same("prompt", "conv", processor.recipe.template.text(sample), facts["text"])
    woven = processor.weave(sample)
    text = woven.owner == 0
    if "tokens" in facts:
        yield same("ids", "conv", woven.ids[text].tolist(), facts["tokens"])
    batch = processor.batch([woven])
    with torch.inference_mode():
        embeds = reading.model.embed(batch.input_ids, batch.items)
        logits = reading.model(**batch.inputs()).logits[0]
    yield from golden(reading, "embeddings", "embeds", embeds)
    wanted = reading.case.get("logits")
    if wanted is not None:
        # Row 0 stands on the last place before the text behind the begin token, row i on text token i.
        found = logits[-len(wanted) :]
        yield close("logits", "conv", found, wanted, reading.tolerance("logits", "default"))


def answers(reading: SphinxVReading) -> Iterator[Check]:
    """Greedy answers, logits of their first steps, and that a second call says the same."""
    for i, facts in enumerate(reading.results["generate"]):
        if facts.get("temperature"):
            continue
        vps = None if facts.get("vps") is None else [list(mark) for mark in facts["vps"]]
        sample = conversation(reading, {**facts, "vps": vps}, f"generation {i}")
        template = reading.processor.recipe.template
        if "prompt" in facts:
            yield same("prompt", sample.id, template.text(sample, True), facts["prompt"])
        assistant = SphinxVModel(reading.model, reading.processor)
        options = assistant.options(facts["max_gen_len"], temperature=0.0)
        woven = assistant._weave(sample, options)
        if "prompt_tokens" in facts:
            ids = woven.ids[woven.owner == 0].tolist()
            yield same("ids", sample.id, ids, facts["prompt_tokens"])
        ((ids, kept),) = assistant.written([sample], options)
        yield same("answers", f"{sample.id} ids", ids, facts["sampled_ids"])
        if "kept_ids" in facts:
            yield same("answers", f"{sample.id} kept", kept, facts["kept_ids"])
        if "text" in facts:
            text = reading.processor.tokenizer.decode(kept)
            yield same("answers", f"{sample.id} text", text, facts["text"])
        yield from _steps(reading, i, reading.processor.batch([woven], "left"), ids)
        if vps is not None:
            yield from _second(reading, i, facts, vps)


def _steps(reading: SphinxVReading, i: int, batch: Batch, ids: Sequence[int]) -> Iterator[Check]:
    wanted = reading.case.get(f"gen.{i}.step_logits")
    if wanted is None:
        return
    written = torch.tensor([list(ids[: len(wanted) - 1])], dtype=torch.long)
    together = torch.cat([batch.input_ids, written], dim=1)
    with torch.inference_mode():
        logits = reading.model(input_ids=together, items=batch.items).logits[0]
    tolerance = reading.tolerance("logits", "default")
    yield close("logits", f"generation {i}", logits[-len(wanted) :], wanted, tolerance)


def _second(
    reading: SphinxVReading, i: int, facts: Mapping[str, Any], vps: list[list[float]]
) -> Iterator[Check]:
    """The reference writes into the caller's list, so that its second call sees other prompts; ours does not."""
    yield same("prompts", f"generation {i}: the caller's list", vps, facts["vps"])
    stored = reading.case.get(f"gen.{i}.sparse_second_call")
    if stored is not None:
        first = prompts(tile(reading, facts["image"], facts["vps"]))[0]
        again = prompts(tile(reading, facts["image"], vps))[0]
        yield same("prompts", f"generation {i}: a second call", again, first)
        reading.notes.append(
            "the reference's second call with the same list sees other prompts (they are normalised in "
            f"place), by up to {float((stored - first).abs().max()):.3g}; that is not copied"
        )


def demo(reading: SphinxVReading) -> Iterator[Check]:
    """Drawn layers as boxes, and clicks as points and boxes."""
    facts = reading.results["demo"]
    size, frame = placed(reading, facts["image"])
    spec = reading.processor.recipe.modalities[sphinx_v.REGION]
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


def layer(path: Any) -> Mask | None:
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


def sam(reading: SphinxVReading) -> Iterator[Check]:
    """The prompt encoder as SAM starts it."""
    file = next(iter(sorted(reading.inputs.glob("*sam*.pth"))), None)
    if file is None:
        return
    found = reading.foreign(sphinx_v.from_sam(file))
    for key, source in reading.results["sam_mapping"].items():
        name = f"llma.vp_encoder.{key}"
        if not source.startswith("prompt_encoder."):
            yield same("start", f"{key} is fresh", name in found, False)
            continue
        wanted = reading.case.get(f"sam.{key}")
        if wanted is not None:
            yield close("start", key, found.get(name), wanted, 0.0)
