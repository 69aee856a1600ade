"""Ship a run: its newest weights in half precision, with what a reader needs to judge them.

python -m omnimix.train.ship runs/nano src/omnimix/models/nano
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch

from omnimix import config
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.errors import TrainError
from omnimix.train import checkpoint
from omnimix.train.records import plot_losses
from omnimix.train.settings import Training


def ship(run: Path, out: Path) -> Path:
    """Write model, tokenizer, recipe, log and curve of a run into a folder.

    Raises:
        TrainError: the run has no checkpoint.
    """
    found = checkpoint.checkpoints(run)
    if not found:
        raise TrainError(
            "no checkpoint", where=str(run), hint="train first, or name the run's folder"
        )
    training = config.validate(
        Training, config.read_yaml(run / "training.yaml"), str(run / "training.yaml")
    )
    recipe, folder = training.model(run)
    model = MultimodalLM.from_recipe(recipe)
    checkpoint.load_weights(found[-1], model)
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.float16).save_pretrained(out)
    Processor.from_recipe(recipe, folder).save_pretrained(out)
    for name in ("metrics.jsonl", "run.jsonl", "training.yaml"):
        shutil.copy(run / name, out / name)
    (out / "state.json").write_text(json.dumps(checkpoint.state_of(found[-1])) + "\n")
    plot_losses(run / "metrics.jsonl", out / "loss.png")
    return out


if __name__ == "__main__":
    ship(Path(sys.argv[1]), Path(sys.argv[2]))
