"""A fingerprint of everything in front of a model, kept beside it: what a fixed question with fixed items comes to, step by step.

A model learned on the pixels and ids of its day. Where a library resizes, normalises or tokenizes otherwise today, the
model answers worse and nothing fails; so what is loaded is prepared once more, and the first step that gives something
else is named. Ids and texts must be the same. Of numbers, `KEPT` places and the means of `MEANS` stretches stand in the file
beside a hash of all. Where the hash is another, the step has moved if one of these is off by more than `EXACT` of their
range, which no other order of additions reaches; a single pixel may be off by one level of its 255. What an earlier step
did may be carried on: once numbers were not the same to the last bit, up to `CARRIED` of the range is the same.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import nn

from omnimix import versions
from omnimix.compose import recipe as recipes
from omnimix.compose.modality import ModalitySpec
from omnimix.compose.sequence import Sequence
from omnimix.compose.weave import Weaver
from omnimix.errors import OmnimixError
from omnimix.media.files import looking_in
from omnimix.media.opening import MediaOpener
from omnimix.media.tiles import Tiles
from omnimix.types import Box, Media, Sample, Turn

FILE = "fingerprint.json"
KEPT, MEANS = 128, 64
_SOME = 64  # numbers of each parameter that the fingerprint looks at
EXACT, CARRIED = 1e-3, 1e-2
TEXT = "How many, 1,024 or 7? naïve café\n\t“x_1 != y” 多言語 🙂"
LIBRARIES = ("omnimix", "torch", "numpy", "pillow", "transformers", "tokenizers", "timm")

LAST = "prompt"
"""The chain of what is made of all others: what lies on pictures, and the prompt itself."""

Value: TypeAlias = str | list[int | str] | list[np.ndarray]


class MovedPreprocessingWarning(UserWarning):
    """What stands in front of the model gives something else than on the day it was saved."""


@dataclass(frozen=True)
class Trace:
    """What one step gives.

    Attributes:
        step: its kind and where the recipe has it, `resize (modalities.image.steps[1])`.
        chain: steps of one chain go on with what the one before gave.
    """

    step: str
    chain: str
    value: Value


def golden() -> dict[str, Any]:
    """Fixed things of every kind: pictures with edges, slopes and noise, a sound of two tones and noise, a text."""
    y, x = np.mgrid[:72, :97].astype(np.uint32)
    noise = (x * 7919 + y * 104729 + x * y * 31) % 251
    layers = (noise, (x * 255) // 96, ((x // 8 + y // 6) % 2) * 255)
    picture = Image.fromarray(np.stack(layers, -1).astype(np.uint8))
    t = np.arange(8000)
    sound = ((t * t % 97) / 97 - 0.5 + (t % 40) / 40 - (t % 11) / 11).astype(np.float32) / 3
    return {
        "image": picture,
        "video": [picture.rotate(90 * i, expand=False) for i in range(4)],
        "audio": (sound, 22050),
        "document": TEXT,
    }


def stages(weave: Weaver, sample: Sample | None = None) -> list[Trace]:
    """Everything that a question passes before the model, the fixed one by default.

    Items that cannot be opened here (a package is missing), and those that are prepared by chance, are left out.
    """
    recipe = weave.recipe
    named = sample is None
    media = _golden_media(weave) if sample is None else _media(weave, sample)
    found = (
        [Trace("tokenizer", "tokenizer", _plain(weave.tokenizer.encode(TEXT)[0]))] if named else []
    )
    with looking_in(weave.folders):
        for name, one in media.items():
            try:
                found += _prepared(recipe.modalities[name], name, one)
            except (OmnimixError, ImportError):
                continue
    asked = _question(list(media.values()), recipe) if sample is None else sample
    try:
        woven = weave(asked, open_answer=True)
    except (OmnimixError, ImportError):
        return found
    overlays = [
        Trace(f"open (modalities.{name}.opens)", LAST, [i.numpy() for i in items[0].inputs])
        for name, items in woven.items.items()
        if name not in media and items
    ]
    return [*found, *overlays, Trace("template", LAST, _ids(woven, recipe))]


def _golden_media(weave: Weaver) -> dict[str, Media]:
    things, recipe = golden(), weave.recipe
    found = {}
    for name, spec in recipe.modalities.items():
        kind = next((one for one in spec.opens.takes() if one in things), None)
        chance = spec.opens.random or any(step.random for step in spec.every())
        if kind is not None and not chance and isinstance(spec.opens, MediaOpener):
            found[name] = Media(kind if recipe.modality_for(kind) == name else name, things[kind])
    return found


def _media(weave: Weaver, sample: Sample) -> dict[str, Media]:
    """The first item of each modality."""
    found: dict[str, Media] = {}
    for media in sample.media():
        name = weave.recipe.modality_for(media.kind)
        if name and isinstance(weave.recipe.modalities[name].opens, MediaOpener):
            found.setdefault(name, media)
    return found


def _question(media: list[Media], recipe: recipes.Recipe) -> Sample:
    regions = [Media.region(Box(10, 8, 60, 50))] if recipe.modality_for("region") else []
    first = Turn("user", (*media, *regions, TEXT))
    return Sample((first, Turn("assistant", ("Seven.",)), Turn("user", ("Why?",))), "fingerprint")


def _prepared(spec: ModalitySpec, name: str, media: Media) -> Iterator[Trace]:
    """One item on its way through the steps, those of each encoder on from where the shared ones end."""
    assert isinstance(spec.opens, MediaOpener)
    shared = spec.opens.tiles(spec.opens.once(media))
    where = f"modalities.{name}"
    yield Trace(f"open ({where}.opens)", name, _numbers(shared))
    for i, step in enumerate(spec.steps):
        shared = step(shared)
        yield Trace(f"{step.kind} ({where}.steps[{i}])", name, _numbers(shared))
    for b, branch in enumerate(spec.branches):
        for e, encoder in enumerate(branch.encoders):
            tiles, inside = shared, f"{where}.branches[{b}].encoders[{e}]"
            for i, step in enumerate(encoder.steps):
                tiles = step(tiles)
                yield Trace(f"{step.kind} ({inside}.steps[{i}])", inside, _numbers(tiles))


def _numbers(tiles: Tiles) -> Value:
    if tiles.pixels is not None:
        return [tiles.pixels.numpy()]
    if tiles.pictures:
        return [np.asarray(picture) for picture in tiles.pictures]
    raw = getattr(tiles.raw, "channels", tiles.raw)
    return [np.asarray(raw)] if isinstance(raw, np.ndarray | torch.Tensor) else str(raw)


def _plain(ids: Any) -> list[int | str]:
    return [int(one) for one in ids]


def _ids(woven: Sequence, recipe: recipes.Recipe) -> list[int | str]:
    """The ids, an item as `image*196`."""
    names = list(recipe.modalities)
    found: list[int | str] = []
    ends = np.flatnonzero(np.diff(woven.owner)) + 1
    for ids, owner in zip(np.split(woven.ids, ends), np.split(woven.owner, ends), strict=True):
        hole = len(owner) and owner[0]
        found += [f"{names[owner[0] - 1]}*{len(owner)}"] if hole else _plain(ids)
    return found


def summary(value: Value) -> dict[str, Any]:
    """What is kept of a value: texts and ids whole, of numbers a hash, their shape and some of them."""
    if isinstance(value, str):
        return {"text": value}
    if not all(isinstance(one, np.ndarray) for one in value):
        return {"ids": value}
    arrays = [np.ascontiguousarray(one) for one in value]
    flat = np.nan_to_num(np.concatenate([one.reshape(-1).astype(np.float64) for one in arrays]))
    # Places spread by the golden ratio: no grid, which would miss every other column.
    places = (np.arange(1, KEPT + 1) * 0.6180339887498949 % 1 * len(flat)).astype(int)
    means = [part.mean() for part in np.array_split(flat, MEANS) if len(part)]
    return {
        "shape": [list(one.shape) for one in arrays],
        "type": str(arrays[0].dtype) if arrays else "",
        "hash": hashlib.sha256(b"".join(one.tobytes() for one in arrays)).hexdigest()[:16],
        "numbers": _short(flat[places] if len(flat) else flat),
        "means": _short(means),
    }


def _short(numbers: Iterable[float]) -> list[float]:
    found = (float(f"{one:.7g}") for one in numbers)
    return [int(one) if one.is_integer() else one for one in found]


def _moved(before: Mapping[str, Any], now: Mapping[str, Any], carried: bool) -> str:
    """How two summaries of a step differ; empty where they do not."""
    if before == now:
        return ""
    if "numbers" not in before or "numbers" not in now:
        return "another text" if "text" in now else _other_ids(before.get("ids"), now.get("ids"))
    for word in ("shape", "type"):
        if before[word] != now[word]:
            return f"{word} {now[word]}, not {before[word]}"
    spread = float(np.ptp(before["numbers"] or [0])) or 1.0
    share = (CARRIED if carried else EXACT) * spread
    level = 1.0 if now["type"] == "uint8" else 0.0
    for word, most in (("numbers", max(level, share)), ("means", share)):
        a, b = (np.asarray(one[word], dtype=float) for one in (before, now))
        apart = float(np.abs(a - b).max(initial=0))
        if not apart <= most:
            return f"{word} up to {apart:.3g} off, in a range of {spread:.3g}"
    return ""


def _other_ids(before: Any, now: Any) -> str:
    if not isinstance(before, list) or not isinstance(now, list):
        return "something else"
    pairs = enumerate(zip(before, now, strict=False), 1)
    at = next((i for i, (a, b) in pairs if a != b), min(len(before), len(now)) + 1)
    return f"other ids from {at} on: {now[at - 1 : at + 5]}, not {before[at - 1 : at + 5]}"


def moved(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[str]:
    """The steps that give something else, of each chain the first; what follows from it is not named."""
    known = {one["step"]: one for one in before}
    first: dict[str, str] = {}
    other: set[str] = set()
    for one in now:
        then, chain = known.get(one["step"]), one["chain"]
        above = {
            name
            for name in other
            if chain in (name, LAST) or chain.startswith(f"modalities.{name}.")
        }
        if then is None or above & first.keys():
            continue
        how = _moved(then, one, bool(above))
        if how:
            first[chain] = f"{one['step']}: {how}"
        if then != one:
            other.add(chain)
    return list(first.values())


def parting(a: Weaver, b: Weaver, sample: Sample) -> str:
    """The first step in which two models prepare the items of a question otherwise; empty where they do not."""
    ours, theirs = (summed(stages(one, sample)) for one in (a, b))
    for one, other in zip(ours, theirs, strict=False):
        if one["step"] != other["step"]:
            return f"{one['step']} in the one, {other['step']} in the other"
        if found := moved([one], [other]):
            return found[0]
    return ""


def summed(found: list[Trace]) -> list[dict[str, Any]]:
    """Stages as they are kept."""
    return [{"step": one.step, "chain": one.chain, **summary(one.value)} for one in found]


def take(weave: Weaver, recipe: str) -> str:
    """The file's content.

    Args:
        recipe: the text of the `recipe.yaml` beside it.
    """
    libraries = {name: versions.version(name) for name in LIBRARIES}
    head = {"version": 1, "recipe": _hash(recipe), "libraries": libraries}
    lines = ",\n".join(json.dumps(one) for one in summed(stages(weave)))
    return f'{json.dumps(head)[:-1]}, "stages": [\n{lines}\n]}}\n'


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def warn_of_moved(weave: Weaver, folder: Path) -> None:
    """A warning where a folder keeps a fingerprint and a step gives something else now."""
    try:
        kept = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if kept["version"] != 1 or not (found := moved(kept["stages"], summed(stages(weave)))):
            return
        then = dict(kept["libraries"])
        edited = kept["recipe"] != _hash((folder / "recipe.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        found, then, edited = [f"{FILE} cannot be read ({type(error).__name__})"], {}, False
    others = [
        f"{name} {was} then, {now} now"
        for name, was in then.items()
        if (now := versions.version(name)) != was
    ]
    others += ["recipe.yaml was changed since"] if edited else []
    warnings.warn(
        f"what stands in front of the model is not what it was when it was saved: {'; '.join(found)} "
        f"({', '.join(others) or 'the libraries are the same'}). Its answers may be worse; install those "
        f"versions, or save the model again where the change is meant ({folder})",
        MovedPreprocessingWarning,
        stacklevel=3,
    )


def of_weights(model: nn.Module) -> str:
    """Tells models apart: a hash of names, shapes and the first numbers of all parameters."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        some = tensor.detach().reshape(-1)[:_SOME].cpu().contiguous()
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(some.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
