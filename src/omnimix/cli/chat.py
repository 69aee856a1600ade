"""`omnimix chat`: ask once, or talk."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnimix.cli import options
from omnimix.cli.guard import places_of, words_of
from omnimix.cli.items import item
from omnimix.cli.regions import described, regions_from
from omnimix.cli.session import ANSWER_FILE, Session
from omnimix.cli.talk import Talk
from omnimix.errors import OmnimixError
from omnimix.regions import to_json
from omnimix.types import Box, Point, Region

if TYPE_CHECKING:
    from omnimix.cli.remote import Remote
    from omnimix.generate.answers import Answer
    from omnimix.generate.assistant import Assistant

DEFAULT = "nano"

Items = Annotated[
    list[str] | None,
    typer.Option(
        "--image",
        "--audio",
        "--video",
        "--document",
        "--item",
        metavar="PATH",
        help="--image takes a picture, --audio a sound, --video a video or a folder of its pictures, --document "
        "text, Markdown, HTML or PDF, --item NAME=PATH an item of any other modality. May be given again.",
    ),
]
RegionsAs = Annotated[
    str | None,
    typer.Option(metavar="WAY", help="tokens, text or marks; default: the model's best."),
]
Questions = Annotated[
    list[str] | None, typer.Option("--ask", help="A question; given again it is the next turn.")
]
Drawing = Annotated[
    Path | None, typer.Option(help="Where the picture with its regions goes; default answer.png.")
]
Server = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Ask a server that speaks OpenAI's API; its key is read from OMNIMIX_API_KEY or OPENAI_API_KEY.",
    ),
]


def command(
    model: options.Model = DEFAULT,
    items: Items = None,
    box: options.Boxes = None,
    point: options.Points = None,
    region: options.Regions = None,
    regions_as: RegionsAs = None,
    ask: Questions = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    draw: Drawing = None,
    max_new_tokens: options.MaxNewTokens = 96,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    seed: options.Seed = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    backend: options.Backend = "torch",
    backend_arg: options.BackendArgs = None,
    weights: options.Weights = "16",
    part: options.Parts = None,
    word: options.Words = None,
    parallel: options.Parallel = None,
    quantization: options.Quantization = None,
    server: Server = None,
) -> None:
    """Ask about pictures, sounds, videos, documents and regions drawn on pictures; without --ask, talk.

    Items stand in front of the first question in the order they are given, or where it names them:
    {image:2}, {audio:1}. Regions take the place of "the box", "the point" or {1}, {2} in it. Without any
    item, a model that ships is asked about the picture that ships with it. With --server, MODEL is one of that
    server's, its first where left out.
    """
    if not items and server is None and (picture := _demo_picture(model)) is not None:
        typer.echo(f"no item is given: this is about the demo picture {picture}", err=True)
        items = [f"image={picture}"]
    regions = regions_from(box, point, region)
    pictured = any(text.startswith("image=") for text in items or ())
    _check(regions, pictured, ask, as_json, draw)
    engine = words_of(backend_arg or (), "--backend-arg")
    on = (device, dtype, backend, weights, options.note, engine)
    if server is not None:
        local = {"device": device, "dtype": dtype, "part": part, "word": word}
        local |= {"parallel": parallel, "quantization": quantization, "backend-arg": backend_arg}
        _none_of(local | {"backend": backend != "torch", "weights": weights != "16"})
    load = _loader(server, on, part, word, parallel, quantization)
    assistant = load(model)
    if assistant.process_group.size > 1 and not ask:
        raise OmnimixError(
            "a conversation at the terminal needs a single process",
            hint="under torchrun ask with --ask, which may be given again for the next turn",
        )
    writing = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
    session = Session(assistant, {**writing, "seed": seed, "pointing": regions_as})
    _put(session, items, regions)
    if ask:
        _once(session, model, ask, draw, as_json)
    else:
        Talk(session, getattr(assistant, "model_name", model), draw, load=load).run()


def _put(session: Session, items: Sequence[str] | None, regions: Sequence[Region]) -> None:
    for media in map(item, items or ()):
        session.add(media)
    for one in regions:
        session.mark(one)


def _loader(
    server: str | None,
    running_on: tuple[Any, ...],
    part: list[str] | None,
    word: list[str] | None,
    parallel: str | None,
    quantization: str | None,
) -> Callable[[str], Assistant | Remote]:
    """What gives a model by its name: of this machine, or of a server."""
    if server is not None:
        from omnimix.cli.remote import Remote

        key = os.environ.get("OMNIMIX_API_KEY") or os.environ.get("OPENAI_API_KEY")

        def asked(name: str) -> Remote:
            remote = Remote(server, key)
            if name in remote.models or name != DEFAULT:
                remote.choose(name)
            return remote

        return asked
    from omnimix.generate.opening import open_model

    places, facts = places_of(part or ()), words_of(word or ())
    words = {"parts": places, "parallel": parallel, "quantization": quantization, **facts}
    return lambda name: open_model(name, *running_on, **words)


def _demo_picture(model: str) -> Path | None:
    """The picture that ships with a model; None where the model is another one."""
    picture = Path(__file__).parents[1] / "models" / model / "scene.png"
    return picture if Path(model).name == model and picture.is_file() else None


def _check(
    regions: list[Region], pictures: bool, ask: list[str] | None, as_json: bool, draw: Path | None
) -> None:
    """Refuse what cannot be, before a model is loaded."""
    if as_json and not ask:
        raise OmnimixError("--json answers a question", hint="give one with --ask")
    if regions and not pictures:
        raise OmnimixError("a box or point needs a picture", hint="give one with --image")
    if draw is not None and not pictures:
        raise OmnimixError("--draw needs a picture to draw on", hint="give one with --image")


def _none_of(local: dict[str, Any]) -> None:
    """Refuse what is said about a model of this machine, where a server's is asked."""
    given = [f"--{name}" for name, value in local.items() if value]
    if given:
        raise OmnimixError(
            f"{', '.join(given)} cannot be chosen for a model that a server holds",
            where="--server",
            hint="leave it out here, and say it where the server is started",
        )


def _once(
    session: Session, model: str, questions: list[str], draw: Path | None, as_json: bool
) -> None:
    answers: list[Answer] = []
    started = time.monotonic()
    for text in questions:
        turns = session.asking(text)
        answers.append(session.assistant.reply(turns, **session.options))
        session.answer(turns, answers[-1])
    seconds = time.monotonic() - started
    if session.assistant.process_group.rank:
        return  # the first process speaks for all
    answered = [region for answer in answers for region in answer.regions]
    drawn = None
    if session.has_picture and (draw is not None or answered):
        drawn = draw or ANSWER_FILE
        session.draw(drawn, answered)
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
    for region in answered:
        typer.echo(f"  {described(region)}")
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
