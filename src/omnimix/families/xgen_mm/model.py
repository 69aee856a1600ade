"""The model as scripts call it: prepared pixels and ids in, new ids out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from omnimix.compose.sequence import IGNORE, Item, Sequence as Woven
from omnimix.errors import CheckpointError, SampleError
from omnimix.families.xgen_mm import write
from omnimix.families.xgen_mm.recipe import MARKS, facts_of
from omnimix.families.xgen_mm.tokens import XGenTokenizer
from omnimix.generate.assistant import Assistant
from omnimix.generate.stopping import end_tokens
from omnimix.media.tensor_steps import Normalize
from omnimix.media.tiling import AnyRes
from omnimix.registry import did_you_mean

Size = tuple[int, int]

HANDED_ON = ("stopping_criteria", "logits_processor", "streamer", "generation_config")
"""Words of transformers' `generate` beside those of its configuration."""


class XGenMMPerceiver:
    """What `create_model_and_transforms` gives first; it holds an `Assistant` and speaks as the original does.

    Attributes:
        anyres_grids: widths and heights in pixels that a picture may have been fitted into.

    Args:
        held: the loaded model; None where `load_state_dict` brings the weights.
        reads: a trainer's state dict to a loaded model.
        side: of a tile in pixels.
        grids: columns and rows of any-res.
    """

    def __init__(
        self,
        held: Assistant | None,
        reads: Callable[[Mapping[str, Tensor]], Assistant],
        side: int,
        grids: Sequence[Size],
    ) -> None:
        self._held = held
        self._reads = reads
        self._moves: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.base_img_size = side
        self.anyres_grids: Sequence[Sequence[int]] = [[side * w, side * h] for w, h in grids]

    @property
    def assistant(self) -> Assistant:
        """The same model as the rest of omnimix knows it.

        Raises:
            CheckpointError: no weights were loaded yet.
        """
        if self._held is None:
            raise CheckpointError(
                "the model has no weights yet",
                hint="call load_state_dict, or give create_model_and_transforms(..., ckpt_pth=FILE)",
            )
        return self._held

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True) -> None:
        """Weights of a trainer's file (`model_state_dict`) or of the converter's; every key is accounted for.

        A file written under DDP holds no vision encoder, which is then taken from its own release.

        Raises:
            CheckpointError: weights that are missing, left over or misshapen; `strict=False`.
        """
        if not strict:
            raise CheckpointError(
                "strict=False would leave random weights where the file has none",
                hint="leave it out; a file without a vision encoder is completed by itself",
            )
        self._held = self._reads(state_dict)
        for place, words in self._moves:
            self._held.model.to(*place, **words)

    def state_dict(self) -> dict[str, Tensor]:
        """The weights under the trainer's names."""
        model = self.assistant.model
        return write.tensors(facts_of(model.recipe), model)

    def parameters(self) -> Iterator[nn.Parameter]:
        """All weights, for scripts that ask them for their device or dtype."""
        return iter(self.assistant.model.parameters())

    @property
    def device(self) -> torch.device:
        return self.assistant.device

    def to(self, *place: Any, **words: Any) -> Self:
        """As in torch; before the weights are there it is remembered for them."""
        if self._held is None:
            self._moves.append((place, words))
        else:
            self._held.model.to(*place, **words)
        return self

    def cuda(self, device: int | str | None = None) -> Self:
        """As in torch."""
        return self.to(f"cuda:{device}" if isinstance(device, int) else device or "cuda")

    def eval(self) -> Self:
        """Models are loaded in this mode."""
        return self

    def generate(
        self,
        vision_x: Any,
        lang_x: Tensor,
        image_size: Sequence[Any] | None = None,
        attention_mask: Tensor | None = None,
        **generation: Any,
    ) -> Tensor:
        """New ids of every row, without the prompt.

        Args:
            vision_x: for each row a list of pictures, each `[tiles, 3, s, s]` with leading ones allowed; or a
                tensor `[rows, pictures, 1, 3, s, s]`. None for text alone.
            lang_x: ids, each `<image>` among them a picture in order; pictures too many are ignored.
            image_size: width and height of every picture, in the same form as `vision_x`.
            attention_mask: 0 where `lang_x` is padding.
            generation: words of transformers' `generate`.

        Raises:
            SampleError: more marks than pictures, or any-res pictures without their sizes.
            CheckpointError: an unknown word, or no weights.
        """
        assistant = self.assistant
        rows = [_row(vision_x, i) for i in range(len(lang_x))]
        sizes = [_sizes(image_size, i) for i in range(len(lang_x))]
        woven = []
        for i, row in enumerate(lang_x.tolist()):
            seen = [1] * len(row) if attention_mask is None else attention_mask[i].tolist()
            kept = [token for token, shown in zip(row, seen, strict=True) if shown]
            woven.append(self._woven(kept, self._items(rows[i], sizes[i])))
        batch = assistant.processor.batch(woven, "left").to(assistant.device)
        words = self._generation(generation)
        with torch.inference_mode():
            ids: Tensor = assistant.model.generate(**batch.inputs(), **words)
        return ids[:, batch.input_ids.shape[1] :]

    def _items(self, pictures: Sequence[Tensor], sizes: Sequence[Size]) -> list[Item]:
        processor = self.assistant.processor
        spec = processor.recipe.modalities["image"]
        tiled = next((step for step in spec.steps if isinstance(step, AnyRes)), None)
        each = processor.weave.tokens_per_tile["image"]
        normal = spec.branches[0].encoders[0].steps[0]
        assert isinstance(normal, Normalize)
        if tiled is not None and len(sizes) < len(pictures):
            raise SampleError(
                f"{len(sizes)} sizes for {len(pictures)} pictures",
                where="image_size",
                hint="give (width, height) of every picture: image_size=[[image.size, ...]]",
            )
        items = []
        for i, pixels in enumerate(pictures):
            size, grid = (self.base_img_size,) * 2, (0, 0)
            if tiled is not None:
                size = (int(sizes[i][0]), int(sizes[i][1]))
                grid = self._grid(tiled, size)
            tokens = spec.groups(len(pixels)) * each
            items.append(Item((_fractions(pixels, normal),), tokens, size, grid=grid))
        return items

    def _grid(self, step: AnyRes, size: Size) -> Size:
        side = self.base_img_size
        grids = tuple((int(w) // side, int(h) // side) for w, h in self.anyres_grids)
        return step.model_copy(update={"grids": grids}).best_grid(*size)

    def _woven(self, ids: Sequence[int], items: Sequence[Item]) -> Woven:
        """The row with holes: a mark, and the placeholders that the base release puts behind it."""
        processor = self.assistant.processor
        numbers = {token.content: token.id for token in _added(processor)}
        mark, filler = numbers[MARKS[0]], numbers[MARKS[1]]
        waiting = iter(items)
        used: list[Item] = []
        filled: list[int] = []
        owner: list[int] = []
        for place, token in enumerate(ids):
            if token == filler and place and ids[place - 1] in (mark, filler):
                continue
            if token != mark:
                filled.append(token)
                owner.append(0)
                continue
            item = next(waiting, None)
            if item is None:
                raise SampleError(
                    f"a prompt has more marks {MARKS[0]} than its {len(items)} pictures",
                    where="lang_x",
                    hint="write one mark for each picture",
                )
            used.append(item)
            filled += [processor.tokenizer.pad] * item.tokens
            owner += [processor.weave.owner["image"]] * item.tokens
        held = {"image": used} if used else {}
        return Woven(np.array(filled), np.full(len(filled), IGNORE), np.array(owner), held)

    def _generation(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Words for transformers: sampling's are left out where nothing is sampled."""
        known = {*GenerationConfig().to_dict(), *HANDED_ON}
        for word in given:
            if word not in known:
                raise CheckpointError(
                    f"generate knows no word {word!r}", hint=did_you_mean(word, known)
                )
        processor = self.assistant.processor
        ends = end_tokens(processor.tokenizer, processor.recipe.template.stop_strings)
        words = {"eos_token_id": list(ends), "pad_token_id": processor.tokenizer.pad}
        words |= {word: value for word, value in given.items() if value is not None}
        if not words.get("do_sample"):
            words["do_sample"] = False
            words = {k: v for k, v in words.items() if k not in ("temperature", "top_p", "top_k")}
        return words


class XGenMMModelForConditionalGeneration(XGenMMPerceiver):
    """The same in the words of the hub's model cards."""

    @property
    def vlm(self) -> XGenMMPerceiver:
        """The model that the original's class wraps; here it is one and the same."""
        return self

    def update_special_tokens(self, tokenizer: XGenTokenizer) -> XGenTokenizer:
        """The tokenizer with the three marks, which it has from the beginning."""
        return tokenizer

    def generate(  # type: ignore[override]  # the hub's class has other names for the same
        self,
        pixel_values: Any = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_size: Sequence[Any] | None = None,
        **generation: Any,
    ) -> Tensor:
        """As `XGenMMPerceiver.generate`."""
        if input_ids is None:
            raise SampleError("input_ids are missing", hint="model.generate(**inputs, ...)")
        return super().generate(pixel_values, input_ids, image_size, attention_mask, **generation)


def _added(processor: Any) -> Any:
    return processor.recipe.tokenizer.added_tokens


def _fractions(pixels: Tensor, normal: Normalize) -> Tensor:
    """Pixels in 0..1 again: the model normalises them itself, on its own device."""
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (normal.mean, normal.std))
    return pixels.detach().to("cpu", torch.float32) * std + mean


def _row(pictures: Any, row: int) -> list[Tensor]:
    """The pictures of a row, each `[tiles, 3, s, s]`."""
    if pictures is None:
        return []
    own = pictures[row]
    many = list(own) if isinstance(own, list | tuple) or own.ndim == 5 else [own]
    return [_tiles(one) for one in many]


def _tiles(pixels: Tensor) -> Tensor:
    while pixels.ndim > 4:
        if pixels.shape[0] != 1:
            raise SampleError(
                f"a picture of shape {list(pixels.shape)}",
                where="vision_x",
                hint="give [tiles, 3, s, s] for each picture",
            )
        pixels = pixels[0]
    return pixels if pixels.ndim == 4 else pixels[None]


def _sizes(sizes: Sequence[Any] | None, row: int) -> list[Size]:
    """Width and height of every picture of a row; a row of one may give them bare."""
    if sizes is None or row >= len(sizes):
        return []
    own = sizes[row]
    return [tuple(own)] if own and isinstance(own[0], int) else [tuple(one) for one in own]
