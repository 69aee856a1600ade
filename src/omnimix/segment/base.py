"""Regions to masks: one small protocol, and the door that opens whatever serves it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from omnimix.errors import CheckpointError
from omnimix.registry import SEGMENTERS, did_you_mean
from omnimix.segment.original import single
from omnimix.types import Mask, Region

WHERE = (
    "weights come from the hub (facebook/sam-vit-base, facebook/sam2.1-hiera-tiny, "
    "facebook/sam3) by their id, or from a folder that was downloaded from there; files of SAM itself "
    "(sam_vit_h_4b8939.pth and its like) open as they are"
)
"""What to say where weights are missing."""


class Segmenter(Protocol):
    """Finds what a region means: for each region the pixels of the thing that it points at."""

    def segment(self, image: Any, regions: Sequence[Region]) -> list[Mask]:
        """One mask for each region, in the picture's own size and with the region's label.

        Args:
            image: a path, bytes, a Pillow picture, an array or `Media`.
            regions: in pixels of the picture.

        Raises:
            MediaError: no picture.
            RegionError: a region that does not lie on it.
        """
        ...


def load_segmenter(weights: str | Path | None = None, device: str | None = None) -> Segmenter:
    """A segmenter from weights of the SAM family.

    Args:
        weights: a folder in the hub's layout, a hub id, or a file of SAM as its makers give it.
        device: cpu, cuda ...; a CUDA device where there is one, else the CPU.

    Raises:
        CheckpointError: no weights named, not there, or of a model that segments nothing.
    """
    if weights is None:
        raise CheckpointError("no weights for segmentation are named", hint=WHERE)
    path = Path(weights)
    if path.is_dir() and not (path / "config.json").is_file():
        raise CheckpointError("config.json is missing", where=str(weights), hint=WHERE)
    kind = "sam" if single(path) else str(_config(weights).get("model_type"))
    if kind not in SEGMENTERS:
        raise CheckpointError(
            f"a model of type {kind!r} makes no masks from regions",
            where=str(weights),
            hint=f"{did_you_mean(kind, SEGMENTERS)}; {WHERE}",
        )
    made: Segmenter = SEGMENTERS.load(kind)(str(weights), kind, device)
    return made


def _config(weights: str | Path) -> dict[str, Any]:
    from transformers import PretrainedConfig

    try:
        words, _ = PretrainedConfig.get_config_dict(str(weights))
    except (OSError, ValueError, json.JSONDecodeError) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise CheckpointError(
            f"no weights for segmentation there ({reason})", where=str(weights), hint=WHERE
        ) from None
    return dict(words)
