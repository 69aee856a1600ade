"""What a run leaves behind about itself: what it ran with."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("omnimix", "torch", "transformers", "timm", "numpy", "pillow")


def describe_run(
    seed: int, device: torch.device, resumed: bool, changed: Sequence[str]
) -> dict[str, Any]:
    """Versions, seed, device, command, git state, and the words that were changed on the way."""
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
        "changed": list(changed),
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
