"""Peak memory of real steps beside what `omnimix plan` says of them: python -m benchmarks.memory

Every run is a training file of three steps over records of one length (of others the plan takes the longest). On CUDA `max_memory_allocated` counts, on the CPU every
storage that an operator gives is followed until it is gone; both count bytes of tensors, as the plan does.
"""

from __future__ import annotations

import json
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from omnimix import config
from omnimix.train.estimate import Machine
from omnimix.train.planning import plan_file
from omnimix.train.run import train

ENCODER = "modalities.image.branches.0.encoders.0.args"
SIZE = (
    "language.config.num_hidden_layers=4",
    f"{ENCODER}={{embed_dim: 192, depth: 2, num_heads: 3, class_token: false}}",
)
WIDE = (
    "language.config.hidden_size=512",
    "language.config.intermediate_size=1536",
    "language.config.num_hidden_layers=6",
    "language.config.num_attention_heads=8",
    "language.config.num_key_value_heads=8",
)
LORA = ("adapters=[{part: language, r: 8}]",)

RUNS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "all learns": (SIZE, {}),
    "activations computed again": (WIDE, {"gradient_checkpointing": True}),
    "two micro-batches": (WIDE, {"gradient_accumulation_steps": 2}),
    "connector alone": (SIZE, {"trainable": ["connectors"]}),
    "encoder frozen": (SIZE, {"trainable": ["connectors", "language"]}),
    "adafactor": (WIDE, {"optimizer": {"name": "adafactor"}}),
    "muon": (WIDE, {"optimizer": {"name": "muon"}}),
    "adapters": ((*WIDE, *LORA), {"trainable": ["adapters", "connectors"]}),
}
"""Overrides of the recipe, and words of the stage."""


def write(folder: Path, name: str, batch_size: int = 4) -> Path:
    """The training file of a run."""
    overrides, words = RUNS[name]
    plain = {
        "mixture": [{"data": {"kind": "jsonl", "path": "rows.jsonl"}}],
        "batch_size": batch_size,
        "max_steps": 3,
        "bf16": False,
    }
    whole = {
        "name": "memory",
        "recipe": "nano",
        "set": list(overrides),
        "num_workers": 0,
        "output_dir": "run",
        "stages": [{**plain, **words}],
    }
    Image.new("RGB", (64, 48)).save(folder / "a.png")
    asked = {"role": "user", "content": [{"image": "a.png"}, "What is here?"]}
    said = {"role": "assistant", "content": ["a red square and a blue circle " * 40]}
    (folder / "rows.jsonl").write_text(json.dumps({"id": "0", "turns": [asked, said]}) + "\n")
    path = folder / "memory.train.yaml"
    path.write_text(config.to_yaml(whole))
    return path


def measured(path: Path, folder: Path) -> float:
    """Most bytes of tensors that a run holds at a time."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        train(path, out=folder)
        return torch.cuda.max_memory_allocated()
    with Storages() as seen:
        train(path, out=folder)
    return seen.peak


class Storages(TorchDispatchMode):
    """Follows storages from the operator that gives them until they are gone."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor) and tensor.device.type == "cpu":
                store = tensor.untyped_storage()
                if store._cdata not in self.held:
                    weakref.finalize(store, self.held.pop, store._cdata, None)
                self.held[store._cdata] = store.nbytes()
        self.peak = max(self.peak, sum(self.held.values()))
        return found


def planned(path: Path) -> dict[str, float]:
    """What the plan says of one device, by cause."""
    machine = Machine(1, 1e18, overhead=0)
    (stage,) = plan_file(path, (), machine, bf16=torch.cuda.is_available())
    return {**stage.memory.causes(), "total": stage.memory.total}


def compare(name: str) -> tuple[float, dict[str, float]]:
    """Measured and planned bytes of a run."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), name)
        plan = planned(path)
        return measured(path, Path(folder) / "run"), plan


if __name__ == "__main__":
    for name in sys.argv[1:] or RUNS:
        took, plan = compare(name)
        ratio = plan["total"] / took
        parts = " ".join(f"{k} {v / 1e6:.0f}" for k, v in plan.items() if v and k != "total")
        print(
            f"{name:28} measured {took / 1e6:6.0f} MB, planned {ratio:5.2f} of it ({parts})",
            flush=True,
        )
