"""What a recipe comes to: tokens per item and parameters per part, counted without weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import nn

from omnimix.compose.adapters import is_adapter
from omnimix.compose.items import prepare
from omnimix.compose.modality import Branch, Modality, ModalitySpec
from omnimix.compose.model import MultimodalLM
from omnimix.compose.recipe import Recipe
from omnimix.encoders.base import Features
from omnimix.errors import reason
from omnimix.types import Media

REFERENCE = (640, 480)
_OTHERS = ((480, 480), (480, 640), (1280, 480), (480, 1280))


@dataclass(frozen=True)
class Tokens:
    """Places that an item of one modality takes.

    Attributes:
        per_tile: of one tile.
        branches: of that, from each branch.
        frame: of that, learned vectors around the tile.
        tiles: of the reference picture, or 1.
        examples: tiles of pictures of other shapes, where the number varies.
        shared: how many items share the one tile; None where each has its own.
    """

    per_tile: int
    branches: tuple[int, ...]
    frame: int
    tiles: int = 1
    examples: dict[str, int] = field(default_factory=dict)
    shared: int | None = None

    @property
    def per_item(self) -> int:
        return self.per_tile * self.tiles

    def line(self) -> str:
        """The arithmetic in words."""
        if self.shared is not None:
            return f"{self.per_item} (up to {self.shared} items share them)"
        tiles = f"{self.tiles} tile{'s' if self.tiles > 1 else ''}"
        whole = f"{tiles} x {self.per_tile} = {self.per_item}"
        if self.examples:
            return f"{self.per_tile} per tile; {_size(REFERENCE)}: {whole}"
        return whole

    def inside(self) -> str:
        """What a tile's tokens are made of, where that is a sum."""
        terms = [*map(str, self.branches), *([f"{self.frame} frame"] if self.frame else [])]
        return f"{self.per_tile} = {' + '.join(terms)}" if len(terms) > 1 else ""


@dataclass(frozen=True)
class Counted:
    """A recipe in numbers.

    Attributes:
        tokens: for each modality that can be built.
        parameters: for each part that can be built, by its name in the model's tree.
        problems: for each part that cannot be built, why.
    """

    tokens: dict[str, Tokens]
    parameters: dict[str, int]
    problems: dict[str, str]

    @property
    def total(self) -> int:
        return sum(self.parameters.values())


def count(recipe: Recipe) -> Counted:
    """Build a recipe on the meta device, part by part, and count."""
    tokens: dict[str, Tokens] = {}
    parameters: dict[str, int] = {}
    problems: dict[str, str] = {}
    sources: dict[str, Features] = {}
    width = int(recipe.language.hf_config().get_text_config().hidden_size)
    for name, spec in recipe.modalities.items():
        try:
            source = spec.source()
            if source is not None and source not in sources:
                problems[name] = f"it looks at {source!r}, which could not be built"
                continue
            with torch.device("meta"):
                built = Modality(spec, width, sources[source] if source else None)
            parameters |= {f"{name}.{part}": size for part, size in _modality(built).items()}
            tokens[name] = _tokens(spec, built)
            sources[name] = built.features
        except Exception as error:  # parts of many libraries; one that fails must not hide the rest
            problems[name] = reason(error)
    try:
        with torch.device("meta"):
            parameters["language"] = _size_of(recipe.language.build())
    except Exception as error:
        problems["language"] = reason(error)
    if recipe.adapters and not problems:
        try:
            parameters["adapters"] = _adapters(recipe)
        except Exception as error:
            problems["adapters"] = reason(error)
    return Counted(tokens, parameters, problems)


def _adapters(recipe: Recipe) -> int:
    model = MultimodalLM.on_meta(recipe)
    return sum(p.numel() for name, p in model.named_parameters() if is_adapter(name))


def _size_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _branches(built: Modality) -> list[Branch]:
    return [branch for branch in built.branches if isinstance(branch, Branch)]


def _modality(built: Modality) -> dict[str, int]:
    found: dict[str, int] = {}
    for i, branch in enumerate(_branches(built)):
        for j, (encoder, finish) in enumerate(zip(branch.encoders, branch.finishes, strict=True)):
            found[f"branches.{i}.encoders.{j}"] = _size_of(encoder) + _size_of(finish)
        found[f"branches.{i}.connector"] = _size_of(branch.connector)
    if len(built.frame):
        found["frame"] = _size_of(built.frame)
    return found


def _tokens(spec: ModalitySpec, built: Modality) -> Tokens:
    branches = tuple(branch.connector.tokens_out for branch in _branches(built))
    common: dict[str, Any] = {
        "per_tile": built.tokens_per_tile,
        "branches": branches,
        "frame": len(built.frame),
    }
    if spec.slots is not None:
        return Tokens(**common, shared=spec.slots)
    if spec.media != "image":
        return Tokens(**common)
    tiles = _tiles(spec, REFERENCE)
    others = {_size(size): _tiles(spec, size) for size in _OTHERS}
    varies = any(number != tiles for number in others.values())
    return Tokens(**common, tiles=tiles, examples=others if varies else {})


def _tiles(spec: ModalitySpec, size: tuple[int, int]) -> int:
    """Tiles (or groups they are re-arranged to) that the connector sees of a picture of this size."""
    return prepare(spec, Media.image(Image.new("RGB", size)), 1).tokens


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
