"""What the original drew by chance for an item of a case: frames of a video, parts of a long sound.

A case lists them beside a request or row, in a table of case.json, or as a tensor, under a word that speaks of
frames (a window, indices) or of crops. Where it lists none, they are found by the prepared item that it holds.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from omnimix.errors import MediaError
from omnimix.media.audio import AudioOpener
from omnimix.media.sound_steps import ClapMel, resampled
from omnimix.types import Media
from omnimix_golden.case import Case

SPEAKS: dict[str, tuple[str, re.Pattern[str]]] = {
    "video": ("frames", re.compile(r"frame|indices|window", re.I)),
    "sound": ("crops", re.compile(r"crop|chunk|start|indices|window", re.I)),
}
"""By our modality: the word of an item, and the words of a case that list it."""


WHOLE = ("pixel_values", "input_features")
"""Prepared items that are stored whole, by their names in a case."""


def listed(
    case: Case,
    ours: str,
    names: Sequence[str],
    beside: Iterable[Mapping[str, Any]],
    keys: Sequence[str],
) -> Any:
    """What a case lists for one modality of a request or row; None where it lists nothing.

    Args:
        names: by which the case may call the modality: the reference's name, its list, ours.
        beside: what the case says of the request or row itself.
        keys: by which the case may call the request or row: `req0`, its name, its number.
    """
    _, speaks = SPEAKS[ours]
    for table in beside:
        for word, value in table.items():
            if speaks.search(word) and word not in ("messages", "name"):
                return _inner(value, names)
    for word, value in case.facts.items():
        if speaks.search(word) and isinstance(value, Mapping):
            own = _inner(value, (*(f"{key}.{name}" for key in keys for name in names), *keys))
            if own is not value:
                return _inner(own, names)
    for key in keys:
        for name in names:
            for word in sorted(case.names(f"{key}.{name}.")):
                tensor = case.get(f"{key}.{name}.{word}") if speaks.search(word) else None
                if tensor is not None and not tensor.is_floating_point():
                    return tensor.tolist()
    return None


def _inner(value: Any, names: Iterable[str]) -> Any:
    """The entry of a table under the first of these names; the value itself where there is none."""
    if isinstance(value, Mapping):
        return next((value[name] for name in names if name in value), value)
    return value


def of_item(value: Any, number: int, path: Any) -> Any:
    """The part of a list that belongs to one item: by its number, its path, or the list itself."""
    if isinstance(value, Mapping):
        if {"start", "end"} <= value.keys():
            return [value["start"], value["end"]]
        known = (path, str(path).rpartition("/")[2], str(number))
        return next((value[name] for name in known if name in value), None)
    if isinstance(value, list) and value and isinstance(value[0], list | Mapping):
        return of_item(value[number], 0, path) if number < len(value) else None
    return value


def window(value: Any, frames: int) -> list[int] | None:
    """Frames of a video: as they are listed, or those of the window that ends where it is said."""
    if isinstance(value, list) and len(value) == frames:
        return [int(index) for index in value]
    if isinstance(value, list) and len(value) == 2:
        value = value[1]
    if not isinstance(value, int):
        return None
    start = value - frames
    spread = np.linspace(start, value, num=frames).clip(start, value - 1)
    return [int(index) for index in spread]


def crops(value: Any) -> list[int] | None:
    """Where parts of a long sound begin."""
    if isinstance(value, int):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [int(start) for start in value] if isinstance(value, list) and value else None


def seen_frames(prepared: Callable[[Any], Tensor], path: Any, frames: int, wanted: Tensor) -> Any:
    """The window whose prepared frames are nearest to those that a case holds.

    Args:
        prepared: what the encoder is given of an item.
    """
    best: tuple[float, Any] = (float("inf"), path)
    for end in itertools.count(frames):
        item = {"path": path, "frames": window(end, frames)}
        try:
            found = prepared(item)
        except MediaError:  # behind the last frame
            return best[1]
        if found.numel() != wanted.numel():
            return path
        far = float((found.flatten() - wanted.flatten()).abs().max())
        best = min(best, (far, item), key=lambda one: one[0])


def seen_crops(step: ClapMel, path: Any, wanted: Tensor) -> Any:
    """The parts of a sound that are nearest to those that a case holds, `[channels, frames, bins]`."""
    sound = AudioOpener().open(Media.audio(path))
    samples = resampled(sound.mono(), sound.rate, step.sampling_rate)
    frames = step.max_length_s * step.sampling_rate // step.hop_length + 1
    if (
        not step.fusion
        or len(samples) <= step.max_length_s * step.sampling_rate
        or len(wanted) != 4
    ):
        return path
    mel = step.decibels(samples)
    if len(mel) <= frames or wanted.shape[1:] != (frames, step.feature_size):
        return path
    parts = mel.unfold(0, frames, 1).transpose(1, 2)
    starts = [int((parts - one).abs().amax(dim=(1, 2)).argmin()) for one in wanted[1:]]
    return {"path": path, "crops": starts}
