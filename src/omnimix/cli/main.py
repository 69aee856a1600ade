"""The command `omnimix`: one file per subcommand, errors as one sentence.

Commands import what they need when they run, so that `omnimix --help` is there at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omnimix import __version__
from omnimix.cli import (
    chat,
    check,
    convert,
    data,
    diff,
    env,
    evaluate,
    export,
    merge,
    models,
    new,
    official,
    plan,
    plot,
    predict,
    push,
    segment,
    serve,
    show,
    soup,
    sweep,
    train,
    verify,
)
from omnimix.cli.guard import Guarded, WordsJoined, open_output
from omnimix.cli.items import ItemsInOrder

app = typer.Typer(
    cls=Guarded,
    help="Multimodal language models as recipes over parts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

app.command("chat", cls=ItemsInOrder)(chat.command)
app.command("show", cls=WordsJoined)(show.command)
app.command("segment", cls=WordsJoined)(segment.command)
app.command("models")(models.command)
app.command("new")(new.command)
app.command("evaluate")(official.with_files(evaluate.command))
app.add_typer(data.app, name="data")
app.command("diff")(diff.command)
app.command("score")(official.score)
app.command("compare")(official.compare)
app.command("check")(check.command)
app.command("predict")(predict.command)
app.command("train")(train.command)
app.command("plan")(plan.command)
app.command("sweep")(sweep.command)
app.command("plot")(plot.command)
app.command("verify")(verify.command)
app.command("convert")(convert.command)
app.command("merge")(merge.command)
app.command("export")(export.command)
app.command("soup")(soup.command)
app.command("serve")(serve.command)
app.command("push")(push.command)
app.command("env")(env.command)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"omnimix {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the whole traceback of an error.")
    ] = False,
    plugin: Annotated[
        list[Path] | None,
        typer.Option("--plugin", metavar="FILE", help="A file of yours with parts (file:Class)."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Multimodal language models as recipes over parts."""
    from omnimix.registry import plug_in

    for file in plugin or ():
        plug_in(file)


def run() -> None:
    """The entry point of the console script."""
    open_output()
    app(prog_name="omnimix")
