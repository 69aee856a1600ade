"""`omnimix chat`: ask once, or talk."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnimix.cli.guard import ITEMS, numbers, places_of, words_of
from omnimix.cli.items import check_place, item as made
from omnimix.errors import OmnimixError
from omnimix.regions import from_json, to_json
from omnimix.types import Box, Media, Point, Region, Turn, check_region

if TYPE_CHECKING:
    from PIL import Image

    from omnimix.generate.answers import Answer
    from omnimix.generate.assistant import Assistant

ANSWER_FILE = Path("answer.png")


def command(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="A shipped model's name, or a model folder.")
    ] = "nano",
    image: Annotated[
        list[str] | None, typer.Option("--image", help="A picture; may be given again.")
    ] = None,
    audio: Annotated[
        list[str] | None,
        typer.Option("--audio", metavar="PATH", help="A sound; may be given again."),
    ] = None,
    video: Annotated[
        list[str] | None,
        typer.Option("--video", metavar="PATH", help="A video, or a folder of its pictures."),
    ] = None,
    document: Annotated[
        list[str] | None,
        typer.Option("--document", metavar="PATH", help="Text, Markdown, HTML or PDF."),
    ] = None,
    item: Annotated[
        list[str] | None,
        typer.Option("--item", metavar="NAME=PATH", help="An item of any other modality."),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option("--box", metavar="X1 Y1 X2 Y2", help="A box on the last picture, in pixels."),
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option("--point", metavar="X Y", help="A point on the last picture, in pixels."),
    ] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(
            "--region",
            metavar="JSON",
            help='Any region: {"polygon": [[x, y], ...]}, {"png": "mask.png"} ..., or a .json file.',
        ),
    ] = None,
    regions_as: Annotated[
        str | None,
        typer.Option(
            "--regions-as", metavar="WAY", help="tokens, text or marks; default: the model's best."
        ),
    ] = None,
    ask: Annotated[
        list[str] | None,
        typer.Option("--ask", help="A question; given again it is the next turn."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    draw: Annotated[
        Path | None,
        typer.Option(help="Where the picture with its regions goes; default answer.png."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens of an answer.")] = 96,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest word.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Share of likely words to choose from.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda ...")] = None,
    part: Annotated[
        list[str] | None,
        typer.Option("--part", metavar="NAME=PLACE", help="A part that a checkpoint lacks."),
    ] = None,
    word: Annotated[
        list[str] | None,
        typer.Option("--word", metavar="NAME=VALUE", help="A fact that no file tells."),
    ] = None,
    parallel: Annotated[
        str | None,
        typer.Option(help="tensor: share the model out over the processes of torchrun."),
    ] = None,
    quantization: Annotated[
        str | None, typer.Option(help="nf4 or int8: hold the language model in fewer bits.")
    ] = None,
) -> None:
    """Ask about pictures, sounds, videos, documents and regions drawn on pictures; without --ask, talk.

    Items stand in front of the first question in the order they are given, or where it names them:
    {image:2}, {audio:1}. Regions take the place of "the box", "the point" or {1}, {2} in it.
    """
    regions: list[Region] = [Box(*numbers(text, 4, "--box")) for text in box or ()]
    regions += [Point(*numbers(text, 2, "--point")) for text in point or ()]
    regions += [one for text in region or () for one in regions_of(text)]
    if as_json and not ask:
        raise OmnimixError("--json answers a question", hint="give one with --ask")
    if regions and not image:
        raise OmnimixError("a box or point needs a picture", hint="give one with --image")
    if draw is not None and not image:
        raise OmnimixError("--draw needs a picture to draw on", hint="give one with --image")
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "pointing": regions_as,
    }
    from omnimix.generate.assistant import load

    places, facts = places_of(part or ()), words_of(word or ())
    assistant = load(
        model, device, parts=places, parallel=parallel, quantization=quantization, **facts
    )
    if assistant.process_group.size > 1 and not ask:
        raise OmnimixError(
            "a conversation at the terminal needs a single process",
            hint="under torchrun ask with --ask, which may be given again for the next turn",
        )
    items = [made(kind, path) for kind, path in context.meta[ITEMS]]
    for one in items:
        if one.kind != "image":
            check_place(assistant, one)
    if ask:
        _once(assistant, model, ask, items, regions, options, draw, as_json)
    else:
        from omnimix.cli.talk import Talk

        if regions:
            check(assistant, pictures_of(items)[-1], regions)
        Talk(assistant, model, items, regions, options, draw).run()


def pictures_of(items: Sequence[Media]) -> list[Media]:
    """The pictures among the items; the last one is what regions lie on."""
    return [one for one in items if one.kind == "image"]


def _once(
    assistant: Assistant,
    model: str,
    questions: list[str],
    items: list[Media],
    regions: list[Region],
    options: dict[str, Any],
    draw: Path | None,
    as_json: bool,
) -> None:
    from omnimix.generate.questions import question

    pictures = pictures_of(items)
    if regions:
        check(assistant, pictures[-1], regions)
    history: list[Turn] = []
    answers: list[Answer] = []
    started = time.monotonic()
    for i, text in enumerate(questions):
        history.append(question(text, (), regions, items) if i == 0 else question(text))
        answers.append(assistant.reply(history, **options))
        history.append(Turn("assistant", (answers[-1].text,)))
    seconds = time.monotonic() - started
    if assistant.process_group.rank:
        return  # the first process speaks for all
    answered = [found for answer in answers for found in answer.regions]
    drawn = None
    if pictures and (draw is not None or answered):
        drawn = save(assistant, draw or ANSWER_FILE, pictures[-1], regions, answered)
    if as_json:
        result = {
            **as_data(answers[-1]),
            "turns": [as_data(answer) for answer in answers],
            "drawn": str(drawn) if drawn else None,
            "model": model,
            "seconds": round(seconds, 3),
        }
        typer.echo(json.dumps(result, ensure_ascii=False))
        return
    for answer in answers:
        typer.echo(answer.text)
    for found in answered:
        typer.echo(f"  {described(found)}")
    for one in (one for answer in answers for one in answer.skipped):
        typer.echo(f"  left out {one.text}: {one.why}")
    if drawn:
        typer.echo(f"  drawn: {drawn}")


def as_data(answer: Answer) -> dict[str, Any]:
    """An answer for JSON; coordinates are pixels of the last picture."""
    return {
        "answer": answer.text,
        "boxes": [_rounded(b) for b in answer.boxes if isinstance(b, Box)],
        "points": [_rounded(p)[:2] for p in answer.boxes if isinstance(p, Point)],
        "regions": [to_json(found) for found in answer.regions],
        "skipped": [{"text": one.text, "why": one.why} for one in answer.skipped],
    }


def _rounded(region: Box | Point) -> list[float]:
    return [round(number, 1) for number in region.bounds()]


def described(region: Region) -> str:
    """A region in words for the terminal."""
    x1, y1, x2, y2 = region.bounds()
    name = f" ({region.label})" if region.label else ""
    if isinstance(region, Point):
        return f"point {x1:.0f}, {y1:.0f}{name}"
    return f"{type(region).__name__.lower()} {x1:.0f}, {y1:.0f} to {x2:.0f}, {y2:.0f}{name}"


def check(assistant: Assistant, picture: Media, regions: Sequence[Region]) -> None:
    """Refuse regions that do not lie on their picture, before a question is made of them.

    Raises:
        OmnimixError: the picture cannot be opened, or the first region that is wrong.
    """
    size = open_picture(assistant, picture).size
    for region in regions:
        check_region(region, *size, where=picture.label or "picture")


def regions_of(word: str) -> list[Region]:
    """The regions of `--region`: one as JSON, or those of a JSON file (one, or a list).

    Raises:
        OmnimixError: no such file, or no region; names the first that is wrong.
    """
    if not word.lower().endswith(".json"):
        return [from_json(word, "--region", files=True)]
    try:
        data = json.loads(Path(word).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "this is no JSON"
        raise OmnimixError(
            f"cannot read the regions ({reason})", where=word, hint="check the file"
        ) from None
    many = data if isinstance(data, list) else [data]
    return [
        from_json(one, f"{word}, region {i}", files=True) for i, one in enumerate(many, start=1)
    ]


def open_picture(assistant: Assistant, picture: Media) -> Image.Image:
    """A picture as the model's recipe opens it.

    Raises:
        OmnimixError: it cannot be opened, or the recipe takes none.
    """
    from omnimix.media.opening import MediaOpener

    recipe = assistant.processor.recipe
    name = recipe.modality_for("image")
    if name is None:
        raise OmnimixError(f"the model {recipe.name!r} takes no pictures", hint="ask without one")
    opens = recipe.modalities[name].opens
    assert isinstance(opens, MediaOpener)
    opened: Image.Image = opens.open(picture)
    return opened


def save(
    assistant: Assistant,
    path: Path,
    picture: Media,
    asked: list[Region],
    answered: Sequence[Region],
) -> Path:
    """Write the picture with its regions.

    Raises:
        OmnimixError: the file cannot be written.
    """
    from omnimix.generate.drawing import draw

    opened = open_picture(assistant, picture)
    try:
        draw(opened, asked, answered).save(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OmnimixError(
            f"cannot write the drawing ({reason})",
            where=str(path),
            hint="give --draw a file name that ends in .png, in a folder that exists",
        ) from None
    return path
