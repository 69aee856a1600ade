"""`omnimix segment`: regions of a picture to masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from omnimix.cli import options
from omnimix.cli.guard import save_drawing
from omnimix.cli.regions import regions_from
from omnimix.disk import writing
from omnimix.errors import OmnimixError
from omnimix.types import Mask


def command(
    image: Annotated[str, typer.Argument(help="A picture.")],
    box: options.Boxes = None,
    point: options.Points = None,
    region: options.Regions = None,
    weights: Annotated[
        str | None,
        typer.Option(help="A model of the SAM family: a folder in the hub's layout, or a hub id."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(help="Where the mask goes, black and white; of several, numbered files."),
    ] = Path("mask.png"),
    draw: Annotated[
        Path | None, typer.Option(help="Where the picture with its masks goes.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the masks as COCO's run lengths.")
    ] = False,
    device: options.Device = None,
) -> None:
    """Turn boxes, points and other regions of a picture into masks."""
    regions = regions_from(box, point, region)
    if not regions:
        raise OmnimixError(
            "no region is named", hint="give one with --box X1 Y1 X2 Y2, --point X Y or --region"
        )
    if not Path(image).is_file():
        raise OmnimixError("there is no such picture", where=image, hint="check the path")
    from omnimix.segment.base import load_segmenter

    masks = load_segmenter(weights, device).segment(image, regions)
    files = _files(out, len(masks))
    for file, mask in zip(files, masks, strict=True):
        _write(file, mask)
    if draw is not None:
        _draw(draw, image, masks)
    if as_json:
        data = [
            {"rle": mask.rle(), "area": int(mask.area()), "file": str(file)}
            for file, mask in zip(files, masks, strict=True)
        ]
        typer.echo(json.dumps({"masks": data, "drawn": str(draw) if draw else None}))
        return
    for file, mask in zip(files, masks, strict=True):
        typer.echo(f"{file}: {int(mask.area())} of {mask.pixels.size} pixels")
    if draw is not None:
        typer.echo(f"drawn: {draw}")


def _files(out: Path, count: int) -> list[Path]:
    if count == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{i}{out.suffix}") for i in range(1, count + 1)]


def _write(file: Path, mask: Mask) -> None:
    with writing(file, "give --out a file in a folder that exists"):
        file.write_bytes(mask.png())


def _draw(file: Path, image: str, masks: list[Mask]) -> None:
    from omnimix.media.drawing import draw

    # A mask in which nothing was found has nothing to be drawn.
    save_drawing(draw(image, [mask for mask in masks if mask.pixels.any()]), file)
