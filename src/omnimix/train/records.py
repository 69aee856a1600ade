"""What a run leaves behind beside its weights: what it ran with, and its curve."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("omnimix", "torch", "transformers", "timm", "numpy", "pillow")


def describe_run(seed: int, device: torch.device, resumed: bool) -> dict[str, Any]:
    """Versions, seed, device, command and git state."""
    versions: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "seed": seed,
        "resumed": resumed,
        "device": f"{device.type} {name}",
        "python": platform.python_version(),
        "versions": versions,
        "git": git_state(),
    }


def git_state() -> dict[str, Any] | None:
    """Commit and whether the tree was changed; None outside a checkout."""

    def ask(*words: str) -> str:
        command = ["git", *words]
        folder = Path(__file__).parent
        # The words are fixed ones of this module.
        done = subprocess.run(  # noqa: S603
            command, cwd=folder, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def plot_losses(metrics: Path, out: Path) -> None:
    """Loss over learned samples, one line a stage, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for stage in sorted({line["stage"] for line in lines}):
        # A resumed run may write a step twice; the later line counts.
        steps = {line["step"]: line for line in lines if line["stage"] == stage}
        ordered = [steps[step] for step in sorted(steps)]
        axes.plot(
            [o["step"] for o in ordered], [o["loss"] for o in ordered], label=ordered[0]["name"]
        )
    axes.set(xlabel="step", ylabel="loss per learned token", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(out)
