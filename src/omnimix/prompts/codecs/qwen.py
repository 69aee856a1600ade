"""The conventions of Qwen2-VL, Qwen2.5-VL and Qwen3-VL."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from omnimix.media.tiles import View
from omnimix.prompts.coordinates import Candidate, Codec, Numbers, extended
from omnimix.types import Region

_THOUSAND = (1000.0, 1000.0)
_PAIRS = re.compile(
    r"(?:<\|object_ref_start\|>([^<]*)<\|object_ref_end\|>\s*)?(?:<\|box_start\|>\s*)?"
    r"((?:\(\s*-?\d+\s*,\s*-?\d+\s*\)\s*,?\s*)+)(?:<\|box_end\|>)?"
)
_PAIR = re.compile(r"\(\s*(-?\d+)\s*,\s*(-?\d+)\s*\)")
_OBJECT = re.compile(r'\{[^{}]*"(?:bbox_2d|point_2d)"[^{}]*\}?')
_ARRAY = re.compile(r'"(bbox_2d|point_2d)"\s*:\s*\[([^\[\]]*)(\]?)')
_LABEL = re.compile(r'"label"\s*:\s*("(?:[^"\\]|\\.)*")')


class Qwen2VL(Codec):
    """`<|box_start|>(x1,y1),(x2,y2)<|box_end|>` in whole thousandths of the picture.

    A name stands in front between `<|object_ref_start|>` and `<|object_ref_end|>`; a point is one pair.
    Where the special tokens are gone from a text, the pairs alone are read. Source: the Qwen2-VL paper
    (coordinates normalised to [0, 1000)) and QwenLM/Qwen3-VL issues 866 and 663.
    """

    kind: Literal["qwen2_vl"] = "qwen2_vl"

    tokens: ClassVar[bool] = True

    def text(self, groups: Sequence[tuple[str, list[Numbers]]], view: View) -> str:
        parts = []
        for label, rows in groups:
            name = f"<|object_ref_start|>{label}<|object_ref_end|>" if label else ""
            for row in rows:
                marks = extended([round(n * 1000) for n in row], row, _THOUSAND, _THOUSAND)
                pairs = [f"({x},{y})" for x, y in zip(marks[::2], marks[1::2], strict=True)]
                parts.append(f"{name}<|box_start|>{','.join(pairs)}<|box_end|>")
        return "".join(parts)

    def find(self, text: str, view: View, asked: Sequence[Region]) -> Iterator[Candidate]:
        for match in _PAIRS.finditer(text):
            pairs = _PAIR.findall(match[2])
            numbers = tuple(int(n[:9]) / 1000 for pair in pairs for n in pair)
            why = "" if len(pairs) in (1, 2) else f"{len(pairs)} pairs are no box or point"
            label = (match[1] or "").strip()
            shown = match.group().strip()
            yield Candidate(match.start(), shown, numbers, label, why, end=match.end())


class Qwen25VL(Codec):
    """JSON with `bbox_2d` [x1, y1, x2, y2] or `point_2d` [x, y] and `label`, in pixels of the resized picture.

    Those are the pixels that the processor makes (`smart_resize`), not the original's. An answer that
    breaks off in the middle of its list keeps the objects before. Source: QwenLM/Qwen3-VL issues 676,
    721 and 1367 (maintainers), the Qwen2.5-VL cookbook on spatial understanding.
    """

    kind: Literal["qwen2_5_vl"] = "qwen2_5_vl"
    frame: Literal["tile", "picture"] = "tile"

    def scale(self, view: View) -> tuple[float, float]:
        """What the far edges are written as."""
        return float(view.tile[0]), float(view.tile[1])

    def text(self, groups: Sequence[tuple[str, list[Numbers]]], view: View) -> str:
        scale = self.scale(view)
        objects = []
        for label, rows in groups:
            for row in rows:
                marks = [round(n * scale[i % 2]) for i, n in enumerate(row)]
                words = {
                    "bbox_2d" if len(row) == 4 else "point_2d": extended(marks, row, scale, scale),
                    **({"label": label} if label else {}),
                }
                objects.append(json.dumps(words, ensure_ascii=False))
        return objects[0] if len(objects) == 1 else "[" + ", ".join(objects) + "]"

    def find(self, text: str, view: View, asked: Sequence[Region]) -> Iterator[Candidate]:
        scale = self.scale(view)
        for match in _OBJECT.finditer(text):
            array = _ARRAY.search(match.group())
            if array is None or not array[3]:
                yield Candidate(
                    match.start(), match.group(), why="its list of numbers is not complete"
                )
                continue
            yield self._object(match, array, scale)

    def _object(
        self, match: re.Match[str], array: re.Match[str], scale: tuple[float, float]
    ) -> Candidate:
        shown, wanted = match.group(), 4 if array[1] == "bbox_2d" else 2
        try:
            values = [float(word) for word in array[2].split(",")]
        except ValueError:
            return Candidate(match.start(), shown, why="it is not made of numbers")
        if len(values) != wanted:
            why = f"{array[1]} takes {wanted} numbers, not {len(values)}"
            return Candidate(match.start(), shown, why=why)
        numbers = tuple(value / scale[i % 2] for i, value in enumerate(values))
        name = _LABEL.search(shown)
        try:
            label = str(json.loads(name[1])) if name else ""
        except ValueError:
            label = ""
        return Candidate(match.start(), shown, numbers, label)


class Qwen3VL(Qwen25VL):
    """The JSON of Qwen2.5-VL, in whole thousandths of the picture again.

    Source: QwenLM/Qwen3-VL issue 1486 (maintainers) and its cookbook on 2D grounding.
    """

    kind: Literal["qwen3_vl"] = "qwen3_vl"  # type: ignore[assignment]
    frame: Literal["tile", "picture"] = "picture"

    def scale(self, view: View) -> tuple[float, float]:
        return 1000.0, 1000.0
