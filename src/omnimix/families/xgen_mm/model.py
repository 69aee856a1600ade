"""The model as scripts call it: prepared pixels and ids in, new ids out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, pairwise, repeat
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from omnimix.calls import checked_call
from omnimix.compose.sequence import IGNORE, Item, Sequence as Woven
from omnimix.errors import CheckpointError, SampleError
from omnimix.families.xgen_mm.folder import XGenMM
from omnimix.families.xgen_mm.recipe import Facts, facts_of
from omnimix.families.xgen_mm.tokenizer import mark_ids
from omnimix.families.xgen_mm.transforms import XGenTokenizer
from omnimix.generate.assistant import Assistant
from omnimix.generate.stopping import end_tokens
from omnimix.media.tiling import AnyRes

Size = tuple[int, int]


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

    @checked_call
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

    @checked_call
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
            CheckpointError: no weights.
        """
        assistant, processor = self.assistant, self.assistant.processor
        facts = facts_of(processor.recipe)
        seen = torch.ones_like(lang_x) if attention_mask is None else attention_mask
        _check_rows(lang_x, attention_mask=seen, vision_x=vision_x, image_size=image_size)
        woven = []
        for i, ids in enumerate(lang_x):
            pictures = [] if vision_x is None else vision_x[i]
            sizes = chain([] if image_size is None else image_size[i], repeat(None))
            items = [self._item(facts, *one) for one in zip(pictures, sizes, strict=False)]
            woven.append(self._woven(facts, ids[seen[i].bool()].tolist(), items))
        batch = assistant.batch(woven)
        ends = end_tokens(processor.weave.tokenizer, processor.recipe.template.stop_strings)
        words = {"eos_token_id": list(ends), "pad_token_id": processor.weave.tokenizer.pad}
        words |= {word: value for word, value in generation.items() if value is not None}
        with torch.inference_mode():
            rows: Tensor = assistant.model.generate(**batch.inputs(), **words)
        return rows[:, batch.input_ids.shape[1] :]

    def _item(self, facts: Facts, pixels: Tensor, size: Size | None) -> Item:
        """A picture as the model takes it: in 0..1 again, since it normalises on its own device."""
        side, grid = facts.side, (0, 0)
        if getattr(pixels, "ndim", 0) < 3:
            raise SampleError(
                f"a picture of {type(pixels).__name__}",
                where="vision_x",
                hint="give what the image processor made of it, [tiles, 3, s, s]",
            )
        tiles = pixels.detach().to("cpu", torch.float32).reshape(-1, *pixels.shape[-3:])
        if len(tiles) != (pixels.shape[-4] if pixels.ndim > 3 else 1):
            raise SampleError(
                f"a picture of shape {list(pixels.shape)}",
                where="vision_x",
                hint="give [tiles, 3, s, s] for each picture",
            )
        if facts.aspect == "anyres":
            if size is None:
                raise SampleError(
                    "there are more pictures than sizes",
                    where="image_size",
                    hint="give (width, height) of every picture: image_size=[[image.size, ...]]",
                )
            grids = tuple((int(w) // side, int(h) // side) for w, h in self.anyres_grids)
            grid = AnyRes(size=side, grids=grids).best_grid(*size)
        mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (facts.mean, facts.std))
        processor = self.assistant.processor
        groups = processor.recipe.modalities["image"].groups(len(tiles))
        tokens = groups * processor.weave.tokens_per_tile["image"]
        return Item((tiles * std + mean,), tokens, size or (side, side), grid=grid)

    def _woven(self, facts: Facts, ids: list[int], items: list[Item]) -> Woven:
        """The row with holes: a mark, and the placeholders that the base release puts behind it."""
        processor = self.assistant.processor
        mark, filler, _ = mark_ids(facts.tokenizer)
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
        for before, token in pairwise([-1, *ids]):
            if token == mark:
                tokens = next(waiting).tokens
                filled += [processor.weave.tokenizer.pad] * tokens
                owner += [processor.weave.owner["image"]] * tokens
            elif token != filler or before not in (mark, filler):
                filled.append(token)
                owner.append(0)
        held = {"image": used} if used else {}
        return Woven(np.array(filled), np.full(len(filled), IGNORE), np.array(owner), held)


def _check_rows(ids: Tensor, **given: Any) -> None:
    """Refuse ids that are no rows, and what is not given for each of them.

    Raises:
        SampleError: names the argument.
    """
    if ids.ndim != 2 or ids.is_floating_point():
        raise SampleError(
            f"ids of {ids.dtype} and of the shape {list(ids.shape)}",
            where="lang_x",
            hint='give tokenizer(...)["input_ids"], [rows, n]',
        )
    for name, value in given.items():
        if value is not None and (not hasattr(value, "__len__") or len(value) != len(ids)):
            count = f"{len(value)} entries" if hasattr(value, "__len__") else type(value).__name__
            raise SampleError(
                f"{count} for {len(ids)} rows of ids", where=name, hint="give one a row"
            )


class XGenMMModelForConditionalGeneration(XGenMMPerceiver):
    """The same in the words of the hub's model cards."""

    @property
    def vlm(self) -> XGenMMPerceiver:
        """The model that the original's class wraps; here it is one and the same."""
        return self

    def update_special_tokens(self, tokenizer: XGenTokenizer) -> XGenTokenizer:
        """The tokenizer with the three marks, which it has from the beginning."""
        return tokenizer

    @checked_call
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
