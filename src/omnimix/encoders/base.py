"""What an encoder is: tiles to features, with the numbers n and d known when built."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import torch
from jaxtyping import Float, Shaped
from pydantic import SerializeAsAny
from torch import Tensor, nn

from omnimix.config import Held, Spec, part
from omnimix.media.tiles import Step
from omnimix.registry import FINISHES, STEPS


class Features:
    """Sizes of what an encoder (or a finishing step) gives: n tokens of width d.

    Attributes:
        tokens: n, prefix tokens included.
        width: d.
        grid: (rows, columns) of the patch tokens, None where they lie on no grid.
        prefix: how many tokens stand before the patches (class token, registers).
    """

    __slots__ = ("grid", "prefix", "tokens", "width")

    def __init__(
        self, tokens: int, width: int, grid: tuple[int, int] | None = None, prefix: int = 0
    ) -> None:
        self.tokens = tokens
        self.width = width
        self.grid = grid
        self.prefix = prefix

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Features) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        grid = f", grid {self.grid[0]}x{self.grid[1]}" if self.grid else ""
        prefix = f", prefix {self.prefix}" if self.prefix else ""
        return f"[{self.tokens}, {self.width}]{grid}{prefix}"


Own = TypeVar("Own", bound=nn.Module)


class Encoder(nn.Module, abc.ABC):
    """`[tiles, ...] -> [tiles, n, d]`, unaware of text and of other encoders."""

    features: Features

    @abc.abstractmethod
    def forward(self, tiles: Shaped[Tensor, "tiles ..."]) -> Float[Tensor, "tiles n d"]: ...

    def train(self: Own, mode: bool = True) -> Own:
        """As in torch, but an encoder that learns nothing stays as it is: no dropout, no moving averages."""
        learns = any(parameter.requires_grad for parameter in self.parameters())
        nn.Module.train(self, mode and learns)
        return self

    def init_non_persistent_buffers(self) -> None:
        """Recompute buffers that a state dict does not hold.

        `from_pretrained` builds on the meta device and leaves such buffers uninitialised, which gave
        NaN logits silently; the model calls this after loading.
        """


class Finish(Spec):
    """A finishing step: `[tiles, n, d] -> [tiles, n2, d2]` without learned weights (or with few)."""

    kind: str

    @abc.abstractmethod
    def sizes(self, features: Features) -> Features: ...

    @abc.abstractmethod
    def build(self, features: Features) -> nn.Module:
        """The module; it is called with `[tiles, n, d]`."""


class EncoderSpec(Spec):
    """Words of an encoder in a recipe.

    `steps` prepare the tiles for this encoder alone (after the modality's own); the tensor steps at their
    end run on the device. `finish` follows the encoder. `weights` is where it begins in training: a hub id, a
    folder in the hub's layout or one file; what the files say of the encoder need not be said again.

    Attributes:
        steps: prepare the tiles for this encoder alone, after the modality's own; the tensor steps at their
            end run on the device.
        finish: finishing steps on its features, in order.
        weights: where it begins in training: a hub id, a folder in the hub's layout or one file; what the
            files say of the encoder need not be said again. None begins with fresh weights.
        dtype: the type that its weights are held in while they are frozen in training, `bfloat16` for half the
            memory; what learns is held in float32.
    """

    kind: str
    steps: tuple[Annotated[SerializeAsAny[Step], part(STEPS)], ...] = ()
    finish: tuple[Annotated[SerializeAsAny[Finish], part(FINISHES)], ...] = ()
    weights: str | None = None
    dtype: Held | None = None
    looks_at: ClassVar[bool] = False
    """Whether the encoder reads another modality's feature map (named by its word `source`)."""

    @classmethod
    def named(cls, words: Mapping[str, Any]) -> str:
        """The hub id (or path) that the word `weights` stands for."""
        return str(words["weights"])

    @classmethod
    def complete(cls, words: Mapping[str, Any], place: Path) -> dict[str, Any]:
        """The words with what pretrained files say; given words are kept.

        Args:
            place: a folder in the hub's layout, or one file.
        """
        return dict(words)

    def stored(
        self, module: nn.Module, tensors: Mapping[str, Tensor], place: Path
    ) -> Mapping[str, Tensor]:
        """Pretrained tensors under names that end as the module's own do.

        Args:
            tensors: what the files hold, under their own names.
        """
        return tensors

    def fresh(self) -> tuple[str, ...]:
        """Patterns of the module's own names that pretrained weights need not hold."""
        return ()

    def tile(self) -> Float[Tensor, "1 3 h w"] | None:
        """An empty tile of the size that it takes; None where it takes something else than pictures."""
        return None

    @abc.abstractmethod
    def build(self, source: Features | None = None) -> Encoder:
        """The module with fresh weights; opens no file and fetches nothing.

        Args:
            source: sizes of the feature map it looks at, for encoders that look at one.
        """


def device_dtype(module: nn.Module) -> torch.dtype:
    """The floating dtype of a module's first parameter."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
