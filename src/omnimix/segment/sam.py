"""SAM and its successors, as transformers has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from omnimix._transformers import quiet
from omnimix.errors import CheckpointError, RegionError
from omnimix.media.image import ImageOpener
from omnimix.media.region import samples
from omnimix.segment import original
from omnimix.segment.base import WHERE
from omnimix.types import Box, Mask, Media, Point, Region, Stroke, check_region

CLASSES: dict[str, tuple[str, str]] = {
    "sam": ("SamModel", "SamProcessor"),
    "sam_hq": ("SamHQModel", "SamHQProcessor"),
    "sam2": ("Sam2Model", "Sam2Processor"),
    "edgetam": ("EdgeTamModel", "Sam2Processor"),
    "sam3_tracker": ("Sam3TrackerModel", "Sam3TrackerProcessor"),
    # Released folders name the video model; the one for pictures is a part of it.
    "sam2_video": ("Sam2Model", "Sam2Processor"),
    "edgetam_video": ("EdgeTamModel", "Sam2Processor"),
    "sam3_video": ("Sam3TrackerModel", "Sam3TrackerProcessor"),
}
"""For each type of model the classes of transformers: the model and its processor."""


class Sam:
    """A model of the SAM family: points and boxes in, the likeliest mask out.

    The picture is encoded once, however many regions are asked for. A point or box is given as it is, a
    stroke as points along it; an outline or mask as its box with points inside it.

    Args:
        weights: a folder in the hub's layout, a hub id, or a file as SAM's makers give it.
        kind: a key of `CLASSES`.
        device: where to compute.

    Raises:
        CheckpointError: the weights are missing, damaged, or do not fill the model.
    """

    def __init__(self, weights: str, kind: str, device: str | None = None) -> None:
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if original.single(weights):
            found, self.processor, missing = _from_file(Path(weights))
        else:
            found, self.processor, missing = _from_folder(weights, kind)
        if missing:
            raise CheckpointError(
                f"{len(missing)} tensors are missing, {missing[0]} first",
                where=weights,
                hint="download it again",
            )
        self.model = found.eval().to(self.device)
        self.kind = kind

    def segment(self, image: Any, regions: Sequence[Region]) -> list[Mask]:
        """See `Segmenter.segment`."""
        picture = ImageOpener().open(image if isinstance(image, Media) else Media.image(image))
        for i, region in enumerate(regions, start=1):
            check_region(region, picture.width, picture.height, f"region {i}")
        if not regions:
            return []
        with torch.inference_mode():
            seen = self._seen(picture)
            return [self._mask(picture, region, seen) for region in regions]

    def _seen(self, picture: Any) -> dict[str, Any]:
        """The picture's features, as `forward` takes them."""
        pixels = self.processor(images=picture, return_tensors="pt")["pixel_values"]
        found = self.model.get_image_embeddings(pixels.to(self.device))
        if self.kind == "sam_hq":
            return {"image_embeddings": found[0], "intermediate_embeddings": found[1]}
        return {"image_embeddings": found}

    def _mask(self, picture: Any, region: Region, seen: dict[str, Any]) -> Mask:
        inputs = self.processor(images=picture, return_tensors="pt", **prompt(region))
        sizes = inputs.pop("original_sizes")
        reshaped = inputs.pop("reshaped_input_sizes", None)
        inputs.pop("pixel_values")
        words = {name: value.to(self.device) for name, value in inputs.items()}
        words = {
            name: value.float() if value.is_floating_point() else value
            for name, value in words.items()
        }
        # A box is one thing; a click may mean a part or the whole, so the best of three is taken.
        out = self.model(**words, **seen, multimask_output=isinstance(region, Point))
        more = {} if reshaped is None else {"reshaped_input_sizes": reshaped}
        masks = self.processor.post_process_masks(out.pred_masks.cpu(), sizes, **more)[0]
        best = int(out.iou_scores.flatten().argmax())
        pixels = masks.flatten(0, -3)[best].numpy().astype(bool)
        return Mask(pixels, label=region.label)


def _from_folder(weights: str, kind: str) -> tuple[Any, Any, list[str]]:
    """The model, its processor, and the names of tensors that the folder lacks."""
    import transformers

    model, processor = (getattr(transformers, name) for name in CLASSES[kind])
    try:
        with quiet():
            found, told = model.from_pretrained(weights, output_loading_info=True)
            made = processor.from_pretrained(weights)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise _unloaded(error, weights) from None
    return found, made, sorted(told["missing_keys"])


def _from_file(path: Path) -> tuple[Any, Any, list[str]]:
    """As `_from_folder`, from a file in the layout of SAM's makers."""
    from transformers import SamImageProcessor, SamModel, SamProcessor

    config, tensors = original.opened(path)
    with torch.device("meta"):
        found = SamModel(config)
    try:
        told = found.load_state_dict(tensors, strict=False, assign=True)
    except RuntimeError as error:
        raise _unloaded(error, str(path)) from None
    if told.unexpected_keys:
        raise CheckpointError(
            f"the file holds {told.unexpected_keys[0]}, which SAM has not",
            where=str(path),
            hint=WHERE,
        )
    side = config.vision_config.image_size
    words = {"size": {"longest_edge": side}, "pad_size": {"height": side, "width": side}}
    return found, SamProcessor(SamImageProcessor(**words)), sorted(told.missing_keys)


def _unloaded(error: Exception, where: str) -> CheckpointError:
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return CheckpointError(f"the weights cannot be loaded ({reason})", where=where, hint=WHERE)


def prompt(region: Region) -> dict[str, Any]:
    """A region in the words of SAM's processors: nested by picture, thing and point."""
    x1, y1, x2, y2 = region.bounds()
    if isinstance(region, Point):
        spots = [[float(region.x), float(region.y)]]
    elif isinstance(region, Box):
        return {"input_boxes": [[[x1, y1, x2, y2]]]}
    else:
        spots = samples(region).tolist()
    words: dict[str, Any] = {"input_points": [[spots]], "input_labels": [[[1] * len(spots)]]}
    if not isinstance(region, Point | Stroke):
        if x1 >= x2 or y1 >= y2:
            raise RegionError("the outline has no extent", hint="give a point or a box")
        words["input_boxes"] = [[[x1, y1, x2, y2]]]
    return words
