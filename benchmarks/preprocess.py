"""Preparing a picture: steps of a recipe against transformers' processors and torchvision's transforms.

Run `python -m benchmarks.preprocess`. All three resize with Pillow, so that the numbers that come out are
the same; transformers' other back end works on tensors and differs by up to 1/255.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image
from torch import Tensor

import omnimix  # noqa: F401  (lets torchvision be imported beside a CPU build of torch)
from benchmarks.harness import Pair, Result, report
from omnimix.media.steps import Resize, ResizeCrop
from omnimix.media.tensor_steps import Normalize
from omnimix.media.tiles import Step, Tiles

HALF = (0.5, 0.5, 0.5)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Prepare = Callable[[Image.Image], Tensor]


def picture(width: int, height: int) -> Image.Image:
    """Coloured noise, smoothed so that a resize is not all it has."""
    noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def ours(steps: Sequence[Step]) -> Prepare:
    """The steps, one after another."""

    def prepare(image: Image.Image) -> Tensor:
        tiles = Tiles.of(image)
        for step in steps:
            tiles = step(tiles)
        return tiles.tensor()[0]

    return prepare


def siglip(size: int) -> dict[str, Prepare]:
    """Squashed to a square, three ways."""
    from torchvision import transforms
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    processor = SiglipImageProcessorPil(size={"height": size, "width": size})
    compose = transforms.Compose(
        [
            transforms.Resize((size, size), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(HALF, HALF),
        ]
    )
    return {
        "ours": ours([Resize(size=size), Normalize(mean=HALF, std=HALF)]),
        "transformers SiglipImageProcessor": lambda image: processor(
            image, return_tensors="pt", resample=Image.Resampling.BICUBIC
        )["pixel_values"][0],
        "torchvision": compose,
    }


def clip(size: int) -> dict[str, Prepare]:
    """Shorter side to the size, the middle cut out, three ways."""
    from torchvision import transforms
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    compose = transforms.Compose(
        [
            transforms.Resize(size, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(CLIP_MEAN, CLIP_STD),
        ]
    )
    return {
        "ours": ours([ResizeCrop(size=size), Normalize(mean=CLIP_MEAN, std=CLIP_STD)]),
        "transformers CLIPImageProcessor": lambda image: processor(image, return_tensors="pt")[
            "pixel_values"
        ][0],
        "torchvision": compose,
    }


def pairs(width: int = 1024, height: int = 768) -> list[Pair]:
    """Ours against every peer, in both styles."""
    image = picture(width, height)
    found = []
    for name, ways in (("siglip 384", siglip(384)), ("clip 336", clip(336))):
        own = ways.pop("ours")
        for against, way in ways.items():
            found.append(
                Pair(
                    f"{name}, {width} x {height}",
                    lambda o=own: o(image),
                    lambda w=way: w(image),
                    against,
                )
            )
    return found


def main(words: Sequence[str] | None = None) -> list[Result]:
    """Run and report."""
    return report(pairs(), words)


if __name__ == "__main__":
    main()
