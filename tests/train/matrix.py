"""Every plan over two processes against one process, on tiny shipped recipes: losses of each step, and weights.

    .venv/bin/python -m tests.train.matrix [STEPS [RECIPE ...]]      (make shards)

The default suite runs a few steps of it (`test_shards.py`).
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omnimix import config
from omnimix.compose import recipe as recipes
from omnimix.data.sources import Source
from omnimix.types import Sample, Turn
from tests.compose import senses
from tests.compose.shrunk import shrunk, unlike

RECIPES = ("nano", "prism_dinosiglip", "sphinx_v", "multi_token_speech", "sphinx_v dpo")
PLANS = {
    "full": "{shard: full}",
    "grad": "{shard: grad}",
    "hybrid": "{shard: hybrid, replicate: 2}",
    "tensor": "{tensor: 2}",
    "none": "{shard: none}",
}


class Unlike(Source):
    """Nine records of a recipe: items of every sense, none, or several; of `NAME dpo` with a worse answer each."""

    length = 9

    def __init__(self, name: str) -> None:
        name, _, self.objective = name.partition(" ")
        self.samples = unlike(shrunk(name))

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index % len(self.samples)]
        answer = Turn("assistant", ("red " * (1 + index % 4),))
        turns = tuple(turn for turn in sample.turns if turn.role != "assistant")
        worse = (
            (*turns, Turn("assistant", ("blue " * (1 + index % 3),))) if self.objective else None
        )
        return replace(sample, turns=(*turns, answer), id=str(index), rejected=worse)


def training_file(folder: Path, name: str, steps: int) -> Path:
    """A training file of a shrunk recipe, of `NAME dpo` with that objective."""
    name, _, objective = name.partition(" ")
    recipe = shrunk(name)
    for file in recipe.files():
        senses.write_tokenizer(folder / file)
    (folder / f"{name}.yaml").write_text(recipes.dump(recipe))
    stage = {
        # Encoders drop out, each process for itself; that of nano has none, but batch norms, and learns.
        "trainable": ["*"] if name == "nano" else ["-*.branches.*.encoders.*", "*"],
        "mixture": [{"data": {"kind": "jsonl", "path": "none.jsonl"}}],
        "batch_size": 4,
        "gradient_accumulation_steps": 2,
        "packing": True,
        "max_steps": steps,
        "logging_steps": 1,
        "bf16": False,
        "schedule": {"warmup_steps": 1},
        # Adam divides gradients that are nothing but rounding by their own size.
        "optimizer": {"lr": 0.001, "eps": 1e-4},
    }
    if objective:
        stage |= {"objective": {"kind": objective, "beta": 0.5}, "packing": False}
    words = {"name": name, "recipe": f"{name}.yaml", "num_workers": 0, "output_dir": "run"}
    file = folder / f"{name}-{objective}.train.yaml"
    file.write_text(config.to_yaml({**words, "stages": [stage]}))
    return file


@dataclass
class Compared:
    """How far two processes are from one.

    Attributes:
        loss, weight: largest difference of a step's loss, and of a weight.
    """

    recipe: str
    plan: str
    loss: float
    weight: float


def compared(folder: Path, names: Sequence[str], steps: int) -> Iterator[Compared]:
    """Train each recipe by each plan and alone."""
    from tests.parallel.test_ranks import torchrun
    from tests.train.ranks import trained
    from tests.train.runs import metrics, weights

    runs = []
    for name in names:
        file = str(training_file(folder, name, steps))
        for plan, words in {"alone": "", **PLANS}.items():
            out = str(folder / plan / name)
            over = [f"parallel={words}"] if words else []
            run = {"name": f"{name}-{plan}", "file": file, "out": out, "overrides": over}
            runs.append({**run, "unlike": name})
    (folder / "plan.json").write_text(json.dumps([r for r in runs if r["overrides"]]))
    done = torchrun(str(Path(__file__).parent / "ranks.py"), str(folder / "plan.json"))
    assert done.returncode == 0, done.stderr[-4000:]
    for run in runs:
        if not run["overrides"]:
            trained(run)
    for name in names:
        alone = folder / "alone" / name
        for plan in PLANS:
            out = folder / plan / name
            said = json.loads((folder / f"{name}-{plan}" / "rank0.json").read_text())
            assert said.get("finished"), said
            losses = zip(metrics(alone), metrics(out), strict=True)
            left, right = weights(alone), weights(out)
            assert left.keys() == right.keys()
            yield Compared(
                name,
                plan,
                max(abs(one["loss"] - two["loss"]) for one, two in losses),
                max(float((left[n] - right[n]).abs().max()) for n in left),
            )


def main(steps: int, names: Sequence[str]) -> int:
    """Print the table; 1 where a plan is too far off."""
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for one in compared(Path(folder), names, steps):
            good = one.loss <= 1e-4 and one.weight <= 1e-5
            wrong += not good
            words = f"{one.recipe:<20} {one.plan:<8} loss {one.loss:.1e}  weights {one.weight:.1e}"
            print(words, "" if good else " TOO FAR", flush=True)
    return min(wrong, 1)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(main(int(arguments[0]) if arguments else 20, arguments[1:] or RECIPES))
