"""Two models mixed into a new folder, with a certificate that says from what and how large it came out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from omnimix.checkpoints import base, writing
from omnimix.checkpoints.base import Parts, Release
from omnimix.checkpoints.files import write_json
from omnimix.compose.model_config import OmnimixConfig
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import difference
from omnimix.convert import certificate, weights as mixing
from omnimix.convert.report import Check, Verdict, number
from omnimix.convert.weights import Mixer, OpenedModel, Weighting
from omnimix.disk import whole_folder
from omnimix.errors import CheckpointError
from omnimix.generate import folder as folders

KIND = "soup"

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "stored": None,
}
"""What comes out; `stored` is what the first model holds."""

TOLERANCE = 1e-6
"""Of a norm that is computed again, as a share of it."""


@dataclass(frozen=True)
class Ingredient:
    """A model to mix: a name, folder or released id, and what its checkpoint lacks."""

    place: str | Path
    parts: Parts = field(default_factory=Parts)


def soup(
    a: Ingredient | str | Path,
    b: Ingredient | str | Path,
    out: str | Path,
    weight: float = 0.5,
    per_part: Mapping[str, float] | None = None,
    extrapolate: bool = False,
    partial: bool = False,
    dtype: str = "float32",
    shard: int = writing.SHARD,
) -> dict[str, Any]:
    """Write weight * A + (1 - weight) * B as a model folder.

    Args:
        a, b: models with equal recipes.
        out: a folder that does not exist yet.
        weight: the share of A.
        per_part: other shares for parts of the model's tree (`language`, `image.branches.0`).
        extrapolate: allow shares outside 0 to 1.
        partial: let B leave out tensors, which are taken from A.
        dtype: a word of `DTYPES`.
        shard: bytes of a file of weights at most.

    Returns:
        What `certificate.json` in the folder says.

    Raises:
        CheckpointError: recipes, tokenizers or tensors that do not fit together; a folder that is there.
        OmnimixError: a share out of range or of a part that is not there.
    """
    place = Path(out)
    if place.exists():
        raise CheckpointError(
            "the folder to write to exists already", where=str(place), hint="name a new folder"
        )
    if dtype not in DTYPES:
        raise CheckpointError(f"unknown dtype {dtype!r}", hint=f"known are {', '.join(DTYPES)}")
    first = _opened(a, True)
    second = _over(a, b) if partial else None
    second = second or _opened(b, not partial)
    processor = _agreed(first, second)
    weighting = Weighting(weight, dict(per_part or {}))
    weighting.check(first.tensors, extrapolate)
    mixer = Mixer(first, second, weighting, DTYPES[dtype])
    with whole_folder(place) as draft:
        files = mixing.write(mixer, draft, shard)
        _save_words(mixer, processor, draft)
        facts = _facts(mixer, weighting, dtype, files)
        write_json(draft / certificate.CERTIFICATE, facts)
        return facts


def _opened(source: Ingredient | str | Path, whole: bool) -> OpenedModel:
    source = source if isinstance(source, Ingredient) else Ingredient(source)
    local = folders.locate(source.place)
    release: Release
    if (local.folder / "recipe.yaml").is_file():
        release = mixing.native(local.folder)
    else:
        places = {**local.parts, **source.parts.places}
        release = base.open_release(local.folder, Parts(places, source.parts.words))
    return mixing.opened(str(source.place), release, whole)


def _over(a: Ingredient | str | Path, b: Ingredient | str | Path) -> OpenedModel | None:
    """B laid over A, where A's family has checkpoints that hold some of the tensors and nothing else."""
    below, above = (s if isinstance(s, Ingredient) else Ingredient(s) for s in (a, b))
    local = folders.locate(below.place)
    found = None if (local.folder / "recipe.yaml").is_file() else base.recognise(local.folder)
    if found is None or not Path(above.place).exists():
        return None
    parts = Parts({**local.parts, **below.parts.places}, below.parts.words)
    laid = found[0].laid(parts, Path(above.place))
    if laid is None:
        return None
    return mixing.opened(str(above.place), base.open_release(local.folder, laid))


def _agreed(a: OpenedModel, b: OpenedModel) -> Processor:
    """The first model's processor, after a look at whether the two are of one recipe.

    Raises:
        CheckpointError: names the first difference.
    """
    between = f"{a.place} and {b.place}"
    found = difference(a.recipe, b.recipe)
    if found:
        raise CheckpointError(
            f"the recipes differ: {found}",
            where=between,
            hint="only models of one recipe can be mixed",
        )
    processor = Processor.from_recipe(a.recipe, a.release.folder)
    words = mixing.same_words(processor, Processor.from_recipe(b.recipe, b.release.folder))
    if words:
        raise CheckpointError(
            f"the tokenizers differ: {words}",
            where=between,
            hint="a token must mean the same in both",
        )
    return processor


def _save_words(mixer: Mixer, processor: Processor, place: Path) -> None:
    """Everything of a model folder but the weights."""
    config = OmnimixConfig(recipe=processor.recipe)
    config.architectures = ["MultimodalLM"]
    floats = [s.dtype for s in mixer.sketches.values() if s.is_floating_point()]
    config.dtype = max(set(floats), key=floats.count) if floats else torch.float32
    config.save_pretrained(place)
    processor.save_pretrained(place)


def _facts(mixer: Mixer, weighting: Weighting, dtype: str, files: list[Path]) -> dict[str, Any]:
    def told(one: OpenedModel) -> dict[str, Any]:
        layout = one.release.layout
        return {
            "model": one.place,
            "layout": f"{layout.family}, {layout.kind}",
            "files": {file.name: mixing.hashed(file) for file in one.files},
        }

    return {
        "kind": KIND,
        "formula": "weight * a + (1 - weight) * b, float32",
        "recipe": mixer.a.recipe.name,
        "weight": weighting.whole,
        "per_part": dict(weighting.parts),
        "dtype": dtype,
        "a": told(mixer.a),
        "b": told(mixer.b),
        "only_in_a": len(mixer.only_a),
        "not_mixed": mixer.chosen,
        "norms": {part: sums.norms() for part, sums in sorted(mixer.sums.items())},
        "files": {file.name: mixing.hashed(file) for file in files},
        **certificate.where_made(),
    }


def verify_soup(folder: Path, facts: Mapping[str, Any]) -> Verdict:
    """Compute the norms of a mixed model again.

    Raises:
        CheckpointError: weights that cannot be read, or a certificate without norms.
    """
    held = mixing.opened(str(folder), mixing.native(folder))
    mixer = Mixer(held, held, Weighting(1.0), None)
    for name in mixer.sketches:
        for _ in mixer.pieces(name):
            pass
    expected = facts.get("norms")
    if not isinstance(expected, dict):
        raise CheckpointError("the certificate states no norms", where=str(folder))
    checks: list[Check] = []
    for part in sorted({*expected, *mixer.sums}):
        wanted = float(expected.get(part, {}).get("result", math.nan))
        found = math.sqrt(mixer.sums[part].result) if part in mixer.sums else math.nan
        checks.append(number("norms", part, found, wanted, TOLERANCE * max(wanted, 1.0)))
    return Verdict(folder.resolve().name, checks)
