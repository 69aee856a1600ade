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
from omnimix.families.xgen_mm.folder import XGenMM
from omnimix.families.xgen_mm.recipe import facts_of
from omnimix.families.xgen_mm.tokenizer import mark_ids
from omnimix.families.xgen_mm.transforms import Tokenizer
from omnimix.generate.assistant import Assistant
from omnimix.generate.stopping import end_tokens
from omnimix.media.tiling import AnyRes
from omnimix.registry import did_you_mean

Size = tuple[int, int]

GENERATION = {
    *GenerationConfig().to_dict(),
    *("stopping_criteria", "logits_processor", "streamer", "generation_config"),
}
"""Words of transformers' `generate`."""


class XGenMMPerceiver:
    """What `create_model_and_transforms` gives first; it holds an `Assistant` and speaks as the original does.

    Attributes:
        base_img_size: side of a tile in pixels.
        anyres_grids: widths and heights in pixels that a picture may have been fitted into.

    Args:
        held: the loaded model; None where `load_state_dict` brings the weights.
        reads: a trainer's state dict to a loaded model; None where the model is whole.
        side: of a tile in pixels.
        grids: columns and rows of any-res.
    """

    def __init__(
        self,
        held: Assistant | None,
        reads: Callable[[Mapping[str, Tensor]], Assistant] | None,
        side: int,
        grids: Sequence[Size],
    ) -> None:
        self._held = held
        self._reads = reads
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
        if self._reads is None:
            raise CheckpointError(
                "a released model takes no other weights",
                hint="create_model_and_transforms makes one that does",
            )
        self._held = self._reads(state_dict)

    def state_dict(self) -> dict[str, Tensor]:
        """The weights under the trainer's names."""
        return XGenMM().tensors(self.assistant.model)

    def parameters(self) -> Iterator[nn.Parameter]:
        """All weights, for scripts that ask them for their device or dtype."""
        return iter(self.assistant.model.parameters())

    @property
    def device(self) -> torch.device:
        return self.assistant.device

    def to(self, *place: Any, **words: Any) -> Self:
        """As in torch."""
        self.assistant.model.to(*place, **words)
        return self

    def cuda(self, device: int | str | None = None) -> Self:
        """As in torch."""
        self.assistant.model.cuda(device)
        return self

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
        seen = torch.ones_like(lang_x) if attention_mask is None else attention_mask
        woven = []
        for i, ids in enumerate(lang_x):
            pictures = [] if vision_x is None else [_tiles(one) for one in vision_x[i]]
            items = self._items(pictures, [] if image_size is None else image_size[i])
            woven.append(self._woven(ids[seen[i].bool()].tolist(), items))
        batch = assistant.batch(woven)
        with torch.inference_mode():
            rows: Tensor = assistant.model.generate(
                **batch.inputs(), **self._generation(generation)
            )
        return rows[:, batch.input_ids.shape[1] :]

    def _items(self, pictures: Sequence[Tensor], sizes: Sequence[Any]) -> list[Item]:
        processor = self.assistant.processor
        spec, facts = processor.recipe.modalities["image"], facts_of(processor.recipe)
        each = processor.weave.tokens_per_tile["image"]
        step = None
        if facts.aspect == "anyres":
            side = facts.side
            grids = tuple((int(w) // side, int(h) // side) for w, h in self.anyres_grids)
            step = AnyRes(size=side, grids=grids)
            if len(sizes) < len(pictures):
                raise SampleError(
                    f"{len(sizes)} sizes for {len(pictures)} pictures",
                    where="image_size",
                    hint="give (width, height) of every picture: image_size=[[image.size, ...]]",
                )
        # The model normalises pixels itself, on its own device, so it gets them in 0..1 again.
        mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (facts.mean, facts.std))
        items = []
        for i, pixels in enumerate(pictures):
            size, grid = (facts.side, facts.side), (0, 0)
            if step is not None:
                size = (int(sizes[i][0]), int(sizes[i][1]))
                grid = step.best_grid(*size)
            plain = pixels.detach().to("cpu", torch.float32) * std + mean
            items.append(Item((plain,), spec.groups(len(pixels)) * each, size, grid=grid))
        return items

    def _woven(self, ids: Sequence[int], items: Sequence[Item]) -> Woven:
        """The row with holes: a mark, and the placeholders that the base release puts behind it."""
        processor = self.assistant.processor
        mark, filler, _ = mark_ids(facts_of(processor.recipe).tokenizer)
        pad, owner_of_image = processor.tokenizer.pad, processor.weave.owner["image"]
        if ids.count(mark) > len(items):
            raise SampleError(
                f"a prompt has more marks <image> than its {len(items)} pictures",
                where="lang_x",
                hint="write one mark for each picture",
            )
        used = items[: ids.count(mark)]
        waiting = iter(used)
        filled: list[int] = []
        owner: list[int] = []
        for before, token in zip([None, *ids], ids, strict=False):
            if token == mark:
                tokens = next(waiting).tokens
                filled += [pad] * tokens
                owner += [owner_of_image] * tokens
            elif token != filler or before not in (mark, filler):
                filled.append(token)
                owner.append(0)
        held = {"image": list(used)} if used else {}
        return Woven(np.array(filled), np.full(len(filled), IGNORE), np.array(owner), held)

    def _generation(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Words for transformers: sampling's are left out where nothing is sampled."""
        for word in given:
            if word not in GENERATION:
                hint = did_you_mean(word, GENERATION)
                raise CheckpointError(f"generate knows no word {word!r}", hint=hint)
        processor = self.assistant.processor
        ends = end_tokens(processor.tokenizer, processor.recipe.template.stop_strings)
        words = {"eos_token_id": list(ends), "pad_token_id": processor.tokenizer.pad}
        words |= {word: value for word, value in given.items() if value is not None}
        if words.setdefault("do_sample", False):
            return words
        return {k: v for k, v in words.items() if k not in ("temperature", "top_p", "top_k")}


class XGenMMModelForConditionalGeneration(XGenMMPerceiver):
    """The same in the words of the hub's model cards."""

    @property
    def vlm(self) -> XGenMMPerceiver:
        """The model that the original's class wraps; here it is one and the same."""
        return self

    def update_special_tokens(self, tokenizer: Tokenizer) -> Tokenizer:
        """The tokenizer with the three marks, which it has from the beginning."""
        return tokenizer

    def generate(  # type: ignore[override]  # the hub's class has other names for the same
        self,
        pixel_values: Any,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        image_size: Sequence[Any] | None = None,
        **generation: Any,
    ) -> Tensor:
        """As `XGenMMPerceiver.generate`."""
        return super().generate(pixel_values, input_ids, image_size, attention_mask, **generation)


def _tiles(pixels: Tensor) -> Tensor:
    """A picture as `[tiles, 3, s, s]`, without leading ones."""
    ready = pixels.reshape(-1, *pixels.shape[-3:])
    if len(ready) != (pixels.shape[-4] if pixels.ndim > 3 else 1):
        raise SampleError(
            f"a picture of shape {list(pixels.shape)}",
            where="vision_x",
            hint="give [tiles, 3, s, s] for each picture",
        )
    return ready
