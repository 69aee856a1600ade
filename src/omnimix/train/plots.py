"""Curves of runs, from what their folders hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnimix.disk import writing
from omnimix.errors import TrainError

FORMATS = (".svg", ".png", ".pdf")


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run, in the order of its steps; of a step that stands twice the later line counts.

    Raises:
        TrainError: the folder holds none.
    """
    file = folder / "metrics.jsonl"
    try:
        found = [json.loads(line) for line in file.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise TrainError(
            f"no metrics can be read ({error})",
            where=str(file),
            hint="name the folder of a run, in which `omnimix train` wrote",
        ) from None
    steps = {(line["stage"], line["step"], "validation" in line): line for line in found}
    return [steps[key] for key in sorted(steps)]


def plot_losses(folders: Sequence[Path], out: Path) -> None:
    """Loss over steps, stage behind stage, one colour a run; validation is dashed.

    Args:
        folders: of runs.
        out: the end of its name says how it is drawn (.svg, .png, .pdf).

    Raises:
        TrainError: a run without metrics, or a file that cannot be drawn.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for i, folder in enumerate(folders):
        lines = lines_of(folder)
        borders = {line["stage"]: line["total_step"] - line["step"] for line in lines}
        for word, style in (("loss", "-"), ("validation", "--")):
            rows = [line for line in lines if line.get(word) is not None]
            at = [row["total_step"] for row in rows]
            label = folder.resolve().name + (" (validation)" if word == "validation" else "")
            if rows:
                axes.plot(at, [r[word] for r in rows], style, color=f"C{i}", label=label)
        for border in list(borders.values())[1:]:
            axes.axvline(border, color=f"C{i}", alpha=0.3, linewidth=0.8)
    axes.set(xlabel="step", ylabel="loss per learned token", yscale="log")
    axes.grid(alpha=0.3, which="both")
    if axes.lines:
        axes.legend()
    if out.suffix not in FORMATS:
        raise TrainError(
            f"no drawing ends in {out.suffix!r}", where=str(out), hint=f"take {', '.join(FORMATS)}"
        )
    with writing(out, "name a file in a folder that exists"):
        figure.savefig(out)
