"""What scripts prepare pictures and texts with: `image_processor`, `process_images` and `tokenizer`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchEncoding, BatchFeature

from omnimix.calls import checked_call
from omnimix.errors import CheckpointError, MediaError
from omnimix.families.xgen_mm.recipe import HALF, aspect_of, picture_steps
from omnimix.families.xgen_mm.tokenizer import read as read_tokenizer
from omnimix.media.image import ImageOpener
from omnimix.media.tensor_steps import Normalize
from omnimix.media.tiles import Tiles
from omnimix.media.tiling import GRIDS
from omnimix.types import Media


@dataclass(frozen=True)
class ImageProcessor:
    """A picture to normalised pixels; both of the original's objects of this name in one.

    Called with a picture it gives `[3, s, s]`, as the notebook's transforms do; called with a list it gives
    a table with `pixel_values`, as the hub's processor does.

    Attributes:
        side: of a tile in pixels.
        mean, std: of the pixels.
        grids: columns and rows of any-res; the notebook's functions use these five whatever a model says.
    """

    side: int
    mean: tuple[float, float, float] = HALF
    std: tuple[float, float, float] = HALF
    grids: tuple[tuple[int, int], ...] = GRIDS

    def tiles(self, picture: Image.Image, aspect: str | None) -> Tensor:
        """All tiles of a picture, `[tiles, 3, s, s]`; see `recipe.ASPECTS`."""
        name = aspect_of(aspect, "image_aspect_ratio")
        ready = Tiles.of(ImageOpener().open(Media.image(picture)))
        for step in picture_steps(name, self.side, self.grids):
            ready = step(ready)
        return Normalize(mean=self.mean, std=self.std)(ready).tensor()

    @checked_call
    def __call__(
        self,
        images: Image.Image | Sequence[Image.Image],
        image_aspect_ratio: str | None = None,
        return_tensors: Literal["pt"] | None = None,
    ) -> Any:
        """Pixels of one picture, or of a list under `pixel_values`; tensors whatever `return_tensors` says.

        Args:
            image_aspect_ratio: `anyres` gives `[1, tiles, 3, s, s]`; `pad` and None squash every picture to
                one tile and give `[1, pictures, 1, 3, s, s]`, as the base release takes them.

        Raises:
            MediaError: several any-res pictures of different grids.
        """
        if isinstance(images, Image.Image):
            return self.tiles(images, None)[0]
        if aspect_of(image_aspect_ratio, "image_aspect_ratio") != "anyres":
            squashed = torch.stack([self.tiles(image, None) for image in images])
            return BatchFeature({"pixel_values": squashed[None]})
        ready = process_images(images, self, SimpleNamespace(image_aspect_ratio="anyres"))
        if not isinstance(ready, Tensor):
            raise MediaError(
                "pictures of different grids do not make one tensor",
                hint="call the processor with one picture at a time, [image]",
            )
        return BatchFeature({"pixel_values": ready})


@checked_call
def process_images(
    images: Sequence[Image.Image], image_processor: ImageProcessor, model_cfg: Any
) -> Tensor | list[Tensor]:
    """The notebook's function: pictures as `model_cfg.image_aspect_ratio` has them, stacked where they fit."""
    aspect = getattr(model_cfg, "image_aspect_ratio", None)
    ready = [image_processor.tiles(image, aspect) for image in images]
    if aspect_of(aspect, "image_aspect_ratio") != "anyres":
        ready = [one[0] for one in ready]
    return torch.stack(ready) if len({one.shape for one in ready}) == 1 else ready


class XGenTokenizer:
    """Texts to padded tensors and ids to text: the slow tokenizer's, whatever `use_fast` says.

    Args:
        folder: with `tokenizer.model` and its configuration.

    Attributes:
        padding_side: of a batch of texts; the original's is `left` as well.
        model_max_length: what texts are cut at where `truncation` is asked for.
        eos_token: what ends an answer; the cards set `<|end|>`.
    """

    model_max_length = 4096

    def __init__(self, folder: Path) -> None:
        spec, add_bos = read_tokenizer(folder)
        self.padding_side: Literal["left", "right"] = "left"
        self.eos_token = spec.eos_token
        self._inner = spec.load([folder])
        self._numbers = {token.content: token.id for token in spec.added_tokens}
        self._start = [self._numbers[spec.bos_token]] if add_bos else []

    def __len__(self) -> int:
        return self._inner.size

    @property
    def pad_token_id(self) -> int:
        return self._inner.pad

    @property
    def eos_token_id(self) -> int:
        if self.eos_token not in self._numbers:
            raise CheckpointError(
                f"the tokenizer has no added token {self.eos_token!r}",
                where="eos_token",
                hint=f"it has {', '.join(self._numbers)}",
            )
        return self._numbers[self.eos_token]

    @checked_call
    def __call__(
        self,
        text: str | Sequence[str],
        return_tensors: Literal["pt"] = "pt",
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
    ) -> BatchEncoding:
        """`input_ids` and `attention_mask` of texts.

        Raises:
            CheckpointError: texts of different length, without padding.
        """
        most = (max_length or self.model_max_length) if truncation else None
        texts = [text] if isinstance(text, str) else text
        rows = [torch.tensor((self._start + self._inner.encode(one)[0])[:most]) for one in texts]
        if not padding and len({len(row) for row in rows}) > 1:
            raise CheckpointError(
                "texts of different length do not make one tensor", hint="give padding=True"
            )
        seen = [torch.ones_like(row) for row in rows]
        side = self.padding_side
        return BatchEncoding(
            {
                "input_ids": pad_sequence(rows, True, self.pad_token_id, side),
                "attention_mask": pad_sequence(seen, True, 0, side),
            }
        )

    @checked_call
    def decode(self, token_ids: Tensor | Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of ids; role tokens stay in it, so callers cut it at `<|end|>`."""
        ids = [int(i) for i in token_ids]
        if skip_special_tokens:
            ids = [i for i in ids if i != self.eos_token_id]
        return self._inner.decode(ids, specials=not skip_special_tokens)

    @checked_call
    def batch_decode(
        self, sequences: Tensor | Sequence[Any], skip_special_tokens: bool = False
    ) -> list[str]:
        """The texts of several rows of ids."""
        return [self.decode(row, skip_special_tokens) for row in sequences]
