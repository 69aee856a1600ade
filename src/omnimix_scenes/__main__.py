"""`python -m omnimix_scenes --out sheet.png --n 24`: a contact sheet to look at."""

from __future__ import annotations

import argparse
import textwrap

from PIL import Image, ImageDraw

from omnimix.types import Box, Media, Sample, Stroke, Turn
from omnimix_scenes.fonts import font
from omnimix_scenes.scenes import Scenes

_CELL = (330, 560)
_PICTURE = 320
_COLUMNS = 6
_MARK = (255, 0, 160)


def _words(turn: Turn) -> str:
    """A turn as one line; regions as their kind and rounded bounds."""
    parts = []
    for part in turn.content:
        if isinstance(part, str):
            parts.append(part)
        elif part.kind == "region":
            name = type(part.data).__name__.lower()
            parts.append(f"<{name} {' '.join(f'{v:.0f}' for v in part.data.bounds())}>")
    return "".join(parts)


def _marked(media: Media, sample: Sample) -> Image.Image:
    """The first picture with the regions of the conversation drawn onto it."""
    picture: Image.Image = media.data.copy()
    pen = ImageDraw.Draw(picture)
    for region in (part.data for part in sample.media("region")):
        if isinstance(region, Box):
            pen.rectangle(region.bounds(), outline=_MARK)
        elif isinstance(region, Stroke):
            pen.line(region.points, fill=_MARK, width=2)
        else:
            x, y, _, _ = region.bounds()
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_MARK)
    return picture


def _cell(sample: Sample, marks: bool) -> Image.Image:
    cell = Image.new("RGB", _CELL, (255, 255, 255))
    images = sample.media("image")
    x = 4
    for media in images:
        picture = _marked(media, sample) if marks and media is images[0] else media.data.copy()
        share = _PICTURE // len(images)
        picture.thumbnail((share, share))
        cell.paste(picture, (x, 4))
        x += share + 2
    lines = []
    for asked, answered in zip(sample.turns[::2], sample.turns[1::2], strict=True):
        lines += textwrap.wrap(f"{_words(asked)}  -> {_words(answered)}", 52)
    text = "\n".join(lines)
    ImageDraw.Draw(cell).text((4, _PICTURE + 10), text, fill=(0, 0, 0), font=font("DejaVuSans", 11))
    return cell


def main() -> None:
    """Write the contact sheet."""
    parser = argparse.ArgumentParser(prog="omnimix_scenes", description=__doc__)
    parser.add_argument("--out", default="sheet.png", help="where the sheet is written")
    parser.add_argument("--n", type=int, default=24, help="how many items it shows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("train", "heldout"), default="train")
    parser.add_argument("--marks", action="store_true", help="draw the regions onto the pictures")
    args = parser.parse_args()
    scenes = Scenes(args.seed, args.split)
    rows = -(-args.n // _COLUMNS)
    sheet = Image.new("RGB", (_CELL[0] * min(args.n, _COLUMNS), _CELL[1] * rows), (255, 255, 255))
    for k in range(args.n):
        place = (_CELL[0] * (k % _COLUMNS), _CELL[1] * (k // _COLUMNS))
        sheet.paste(_cell(scenes[k], args.marks), place)
    sheet.save(args.out)
    print(f"{args.n} items in {args.out}")


if __name__ == "__main__":
    main()
