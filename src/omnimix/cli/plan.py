"""`omnimix plan`: what a training file takes of given devices, without weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omnimix.cli import options
from omnimix.errors import OmnimixError

if TYPE_CHECKING:
    from omnimix.train.estimate import Way
    from omnimix.train.planning import StageEstimate

UNITS = {"GB": 1e9, "GIB": 2**30, "MB": 1e6, "MIB": 2**20}


def command(
    file: Annotated[Path, typer.Argument(help="A training file, nano.train.yaml for one.")],
    devices: Annotated[int, typer.Option(help="GPUs of all machines.", min=1)] = 8,
    memory: Annotated[str, typer.Option(help="Of one GPU: 80GB, 24GiB.")] = "80GB",
    nodes: Annotated[int, typer.Option(help="Machines they stand in.", min=1)] = 1,
    efficiency: Annotated[
        float, typer.Option(help="Share of the peak that is reached.", min=0.01, max=1)
    ] = 0.4,
    peak: Annotated[
        float, typer.Option(help="TFLOP/s of one GPU; 989 is an H100's dense bf16.", min=0.001)
    ] = 989.0,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a word.")
    ] = None,
    parallel: options.Plan = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print numbers as JSON.")] = False,
) -> None:
    """Reckon memory, traffic and hours of a training file, and the smallest plan that fits.

    Ends with exit code 1 where a stage does not fit, and says which way would.
    """
    from omnimix.train.estimate import Machine
    from omnimix.train.planning import plan_file

    if devices % nodes:
        raise OmnimixError(f"{devices} devices do not stand evenly in {nodes} machines")
    machine = Machine(devices, size(memory), nodes, peak * 1e12, efficiency)
    words = [*(override or ()), *options.plan_words(parallel)]
    stages = plan_file(file, words, machine)
    nearest = [stage.nearest() for stage in stages]
    if as_json:
        ways = [None if way is None else way.words(i) for i, way in enumerate(nearest)]
        data = [{**one.to_dict(), "nearest": way} for one, way in zip(stages, ways, strict=True)]
        typer.echo(json.dumps({"machine": vars(machine), "stages": data}, indent=2))
    else:
        for stage, way in zip(stages, nearest, strict=True):
            typer.echo("\n".join(lines(stage)))
            if way is not None and stage.fits:
                typer.echo(f"  smallest that fits   {way.words(stage.number)}")
    for stage, way in zip(stages, nearest, strict=True):
        if not stage.fits:
            raise _too_large(stage, way)


def size(text: str) -> float:
    """Bytes of a size like `80GB`.

    Raises:
        OmnimixError: no number, or another unit.
    """
    unit = next((name for name in UNITS if text.upper().endswith(name)), "")
    try:
        number = float(text[: len(text) - len(unit)])
    except ValueError:
        number = 0.0
    if not unit or not number > 0:
        raise OmnimixError(
            f"{text!r} is no size of a memory", where="--memory", hint="write 80GB or 24GiB"
        )
    return number * UNITS[unit]


class TooLarge(OmnimixError):
    """A stage that the devices do not hold."""

    exit_code = 1


def _too_large(stage: StageEstimate, way: Way | None) -> TooLarge:
    machine, taken = stage.machine, stage.memory
    largest = max(taken.causes(), key=lambda cause: taken.causes()[cause])
    return TooLarge(
        f"stage {stage.stage.name} takes {taken.total / 1e9:.2f} GB of a device's "
        f"{machine.memory / 1e9:.2f} GB, most of it {largest} ({taken.causes()[largest] / 1e9:.2f} GB)",
        where=f"stages.{stage.number}",
        hint="no plan of these devices fits: take more of them, more memory, adapters or quantization"
        if way is None
        else f"the nearest that fits: {way.words(stage.number)}",
    )


def lines(stage: StageEstimate) -> list[str]:
    """A stage's numbers for a person."""
    rows, machine, way = stage.rows, stage.machine, stage.way
    sizes, _ = stage.estimator.mesh(way, machine)
    mesh = " x ".join(map(str, sizes))
    memory = stage.memory
    said = [f"stage {stage.stage.name}: {machine.devices} x {machine.memory / 1e9:.0f} GB"]
    for name, part in stage.parts().items():
        tokens = f", {part['tokens']:,.0f} tokens of a row" if "tokens" in part else ""
        said.append(
            f"  {name:20} learns {part['learned'] / 1e6:,.1f} M, frozen {part['frozen'] / 1e6:,.1f} M{tokens}"
        )
    if rows.assumed:
        said.append(
            f"  rows                 assumed to be the longest that fit, {rows.tokens:,.0f} tokens ({rows.assumed})"
        )
    else:
        count = "without end" if rows.count is None else f"{rows.count:,}"
        said.append(
            f"  rows                 {count}; of {rows.looked} looked at {rows.cut} are cut, the longest has "
            f"{rows.longest.room:,} tokens, the mean {rows.tokens:,.0f}, {rows.learned:,.0f} learned"
        )
    said.append(
        f"  a micro-batch        {stage.estimator.rows(way, machine)} rows a device, {way.parts} of a step, "
        f"mesh {mesh} (replicate x shard x tensor)"
    )
    said.append(f"  memory of a device   {memory.total / 1e9:.2f} GB, when the {memory.moment}")
    said += [f"    {cause:18} {value / 1e9:9.2f} GB" for cause, value in memory.causes().items()]
    for name, sent in stage.estimator.traffic(way, machine).items():
        said.append(f"  sent a step          {sent / 1e9:.1f} GB by {name}")
    said.append(
        f"  computed a step      {stage.estimator.flops(way):.3g} FLOP, {stage.seconds:.3g} s at "
        f"{machine.efficiency:.0%} of {machine.peak / 1e12:g} TFLOP/s"
    )
    if stage.hours is not None:
        said.append(f"  all of it            {stage.steps:,} steps, {stage.hours:.3g} hours")
    return said
