"""Pictures as the notebook and the hub's cards prepare them: `image_processor` and `process_images`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature

from omnimix.compose.modality import ModalitySpec
from omnimix.errors import MediaError
from omnimix.families.xgen_mm.recipe import GREY
from omnimix.media.image import ImageOpener
from omnimix.media.steps import Pad, Resize
from omnimix.media.tensor_steps import Normalize
from omnimix.media.tiles import Step, Tiles
from omnimix.media.tiling import GRIDS, AnyRes
from omnimix.types import Media

ANYRES = ("anyres", "anyres-legacy")


@dataclass(frozen=True)
class ImageProcessor:
    """A picture to normalised pixels; both of the original's objects of this name in one.

    Called with a picture it gives `[3, s, s]`, as the notebook's transforms do; called with a list it gives
    a table with `pixel_values`, as the hub's processor does.

    Attributes:
        side: of a tile in pixels.
        mean, std: of the pixels.
        grids: columns and rows of any-res; the original's functions use these five whatever a model says.
    """

    side: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    grids: tuple[tuple[int, int], ...] = GRIDS

    @classmethod
    def of(cls, image: ModalitySpec) -> ImageProcessor:
        """That of a model's modality."""
        size = next(step.size for step in image.steps if isinstance(step, AnyRes | Resize))
        pixels = image.branches[0].encoders[0].steps[0]
        assert isinstance(pixels, Normalize)
        assert isinstance(size, int)
        return cls(size, pixels.mean, pixels.std)

    @cached_property
    def transforms(self) -> tuple[SimpleNamespace, ...]:
        """What scripts ask of the notebook's transforms: the side of the first, the mean of the last."""
        sized = SimpleNamespace(size=(self.side, self.side))
        return sized, SimpleNamespace(mean=self.mean, std=self.std)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a tile."""
        return self.side, self.side

    def tiles(self, picture: Image.Image, aspect: str | None) -> Tensor:
        """All tiles of a picture, `[tiles, 3, s, s]`."""
        steps: list[Step] = [Resize(size=self.side)]
        if aspect in ANYRES:
            steps = [AnyRes(size=self.side, grids=self.grids)]
        elif aspect == "pad":
            steps.insert(0, Pad(fill=(GREY,) * 3))
        ready = Tiles.of(ImageOpener().open(Media.image(picture)))
        for step in (*steps, Normalize(mean=self.mean, std=self.std)):
            ready = step(ready)
        return ready.tensor()

    def __call__(
        self,
        images: Image.Image | Sequence[Image.Image],
        image_aspect_ratio: str | None = None,
        return_tensors: str | None = None,
    ) -> Any:
        """Pixels of one picture, or of a list under `pixel_values`.

        Args:
            image_aspect_ratio: `anyres` gives `[1, tiles, 3, s, s]`; anything else squashes every picture to
                one tile and gives `[1, pictures, 1, 3, s, s]`, as the base release takes them.
            return_tensors: `pt` or nothing: tensors either way.

        Raises:
            MediaError: several any-res pictures of different grids.
        """
        if isinstance(images, Image.Image):
            return self.tiles(images, None)[0]
        if return_tensors not in (None, "pt"):
            raise MediaError(
                f"return_tensors={return_tensors!r}", hint="these are tensors: give 'pt'"
            )
        if image_aspect_ratio in ANYRES:
            ready = process_images(images, self, SimpleNamespace(image_aspect_ratio="anyres"))
            if not isinstance(ready, Tensor):
                raise MediaError(
                    "pictures of different grids do not make one tensor",
                    hint="call the processor with one picture at a time, [image]",
                )
            return BatchFeature({"pixel_values": ready})
        squashed = torch.stack([self.tiles(image, None) for image in images])
        return BatchFeature({"pixel_values": squashed[None]})


def process_images(
    images: Sequence[Image.Image], image_processor: ImageProcessor, model_cfg: Any
) -> Tensor | list[Tensor]:
    """The notebook's function: pictures as `model_cfg.image_aspect_ratio` has them, stacked where they fit."""
    aspect = getattr(model_cfg, "image_aspect_ratio", None)
    ready = [image_processor.tiles(image, aspect) for image in images]
    if aspect not in ANYRES:
        ready = [one[0] for one in ready]
    same = all(one.shape == ready[0].shape for one in ready)
    return torch.stack(ready) if same else ready
