"""`omnimix train`: run the stages of a training file."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omnimix.cli import options

if TYPE_CHECKING:
    from omnimix.train.run import Result
    from omnimix.train.watcher import Watcher


def command(
    file: Annotated[
        Path | None, typer.Argument(help="A training file, recipes/nano.train.yaml for one.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a word.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on where the folder's run stopped.")] = True,
    out: Annotated[Path | None, typer.Option(help="The run's folder.")] = None,
    allow_changes: options.AllowChanges = False,
    fall_back: options.FallBack = False,
    parallel: options.Plan = None,
    processes: options.Processes = 1,
    prove_resume: options.ProveResume = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the training files' JSON schema.")
    ] = False,
) -> None:
    """Train a model as a file says. Ctrl-C saves and stops; the same command goes on."""
    from omnimix.cli.screen import watcher
    from omnimix.parallel import process_group
    from omnimix.train import settings

    if schema:
        typer.echo(json.dumps(settings.schema(), indent=2))
        return
    if file is None:
        raise settings.unnamed()
    if processes > 1 and "RANK" not in os.environ:
        _launch(processes)
    words = [*(override or []), *options.plan_words(parallel)]
    if prove_resume:
        return _prove(file, words, out)
    from omnimix.train.run import train
    from omnimix.train.stopping import Stopped

    watching = watcher()
    try:
        result = train(
            file,
            words,
            out,
            resume,
            watcher=watching,
            allow_changes=allow_changes,
            fall_back=fall_back,
        )
    except Stopped as stopped:
        if process_group.current().rank == 0:
            watching.tell("stopped before another step was taken; there is nothing new to save")
        raise typer.Exit(stopped.exit_code) from None
    if process_group.current().rank == 0:
        _end(result, watching)
    if result.signal is not None:
        raise typer.Exit(128 + result.signal)


def _prove(file: Path, words: list[str], out: Path | None) -> None:
    from omnimix.train.proving import prove

    if not prove(file, words, out, typer.echo):
        raise typer.Exit(1)


def _launch(processes: int) -> None:
    """Become the launcher of torch, which runs this very command in every process."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    os.execv(sys.executable, [sys.executable, *launch, "-m", "omnimix", *sys.argv[1:]])  # noqa: S606


def _end(result: Result, watching: Watcher) -> None:
    """What there is now, and the next command."""
    if result.signal is None:
        watching.tell(f"ask it: omnimix chat {result.folder / 'model'}")
        return
    by = "SIGTERM" if result.signal == 15 else "Ctrl-C"
    watching.tell(f"stopped by {by}, saved in {result.saved}; the same command goes on from there")
