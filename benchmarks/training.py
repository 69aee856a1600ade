"""What training and encoding together save: items of a batch at once, records of like length, packing, two ranks.

Run `python -m benchmarks.training`. The models are small; both sides of a line do the same work, and with
adapters the peer is peft around the same language model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.harness import Pair, Result, report
from benchmarks.packing import SMALL, step
from omnimix import config
from omnimix.compose import recipe as recipes
from omnimix.compose.adapters import is_adapter
from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM, token_loss
from omnimix.compose.processor import Processor
from omnimix.data.orders import like_length
from omnimix.types import Media, Sample, Turn

LORA = "adapters=[{part: language, r: 8, lora_alpha: 16}]"
LENGTHS = (8, 12, 150, 10, 9, 170, 14, 160, 11, 8, 155, 12, 10, 165, 9, 13)


def pictures(count: int) -> list[Sample]:
    """Conversations with a picture each."""
    from PIL import Image

    return [
        Sample(
            (
                Turn("user", (Media.image(Image.new("RGB", (64, 48), (9 * i, 40, 90))), "What?")),
                Turn("assistant", ("a cup",)),
            )
        )
        for i in range(count)
    ]


def projection(model: MultimodalLM, processor: Processor, count: int = 8) -> Pair:
    """The pictures of a batch through encoder and connector: at once, or one after another."""
    samples = pictures(count)
    whole = processor(samples)["items"]["image"]
    single = [processor([sample])["items"]["image"] for sample in samples]

    def once() -> Tensor:
        with torch.no_grad():
            return model.encode({"image": whole})["image"].tokens

    def each() -> Tensor:
        with torch.no_grad():
            return torch.cat([model.encode({"image": one})["image"].tokens for one in single])

    return Pair(f"{count} pictures encoded at once", once, each, "one at a time")


def lengths(model: MultimodalLM, processor: Processor, words: Sequence[int] = LENGTHS) -> Pair:
    """One round over records of very different length, in batches of four."""
    samples = [
        Sample((Turn("user", ("red " * count,)), Turn("assistant", ("a cup",)))) for count in words
    ]
    woven = [processor.weave(sample) for sample in samples]

    def batches(order: Sequence[int]) -> list[Batch]:
        parts = [order[i : i + 4] for i in range(0, len(order), 4)]
        return [processor.batch([woven[i] for i in part]) for part in parts]

    ours, plain = batches(like_length(words, 4, 0)), batches(list(range(len(words))))

    def round_(many: list[Batch]) -> Tensor:
        total = torch.zeros(())
        for batch in many:
            total = total + step(model, batch) * batch.targets
        return total / sum(batch.targets for batch in many)

    return Pair(
        f"{len(words)} records in batches of like length",
        lambda: round_(ours),
        lambda: round_(plain),
        "as they come",
    )


def lora(overrides: Sequence[str] = SMALL) -> Pair:
    """A step that teaches adapters of the language model, ours and peft's around the same model."""
    from peft import LoraConfig, get_peft_model

    recipe = recipes.load("nano", overrides)
    torch.manual_seed(0)
    plain = MultimodalLM.from_recipe(recipe)
    torch.manual_seed(0)
    ours = MultimodalLM.from_recipe(recipes.load("nano", (*overrides, LORA)))
    for name, parameter in ours.named_parameters():
        parameter.requires_grad_(is_adapter(name))
    words = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
    wrapped: nn.Module = get_peft_model(plain.language, LoraConfig(**words))
    processor = Processor.from_recipe(recipe)
    batch = processor([Sample((Turn("user", ("red " * 60,)), Turn("assistant", ("a cup",))))] * 4)

    def peer() -> Tensor:
        wrapped.zero_grad()
        loss = token_loss(wrapped(input_ids=batch.input_ids).logits, batch.labels)
        loss.backward()
        return loss.detach()

    return Pair("a LoRA step", lambda: step(ours, batch), peer, "peft's own wrapper")


def ranks(folder: Path, rounds: int, steps: int = 20, overrides: Sequence[str] = SMALL) -> Result:
    """The steps of a run on two processes and on one, each process on one core; starting up does not count."""
    stage = {
        "mixture": [{"data": {"kind": "scenes"}}],
        "batch_size": 16,
        "steps": steps,
        "logging_steps": steps,
        "bf16": False,
    }
    words = {
        "name": "x",
        "recipe": "nano",
        "set": list(overrides),
        "num_workers": 0,
        "output_dir": "run",
    }
    file = folder / "x.train.yaml"
    file.write_text(config.to_yaml({**words, "stages": [stage]}))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}

    def seconds(processes: int, number: int) -> float:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        out = folder / f"{processes}-{number}"
        train = [*torchrun, str(processes), "-m", "omnimix", "train", str(file), "--out", str(out)]
        done = subprocess.run(
            [sys.executable, *train], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        (line,) = [json.loads(row) for row in (out / "metrics.jsonl").read_text().splitlines()]
        return float(line["seconds"])

    pair = Pair(f"{steps} steps on two processes", lambda: None, lambda: None, "one process")
    times = [(seconds(2, number), seconds(1, number)) for number in range(rounds)]
    return Result(pair, tuple(own for own, _ in times), tuple(theirs for _, theirs in times))


def pairs(overrides: Sequence[str] = SMALL) -> list[Pair]:
    """All but the one of several processes."""
    recipe = recipes.load("nano", overrides)
    torch.manual_seed(0)
    model, processor = MultimodalLM.from_recipe(recipe).eval(), Processor.from_recipe(recipe)
    return [projection(model, processor), lengths(model, processor), lora(overrides)]


def main(words: Sequence[str] | None = None) -> list[Result]:
    """Run and report; `--ranks N` runs the two processes N times besides."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--ranks", type=int, default=0)
    own, rest = parser.parse_known_args(words)
    results = report(pairs(), rest)
    if own.ranks:
        with tempfile.TemporaryDirectory() as folder:
            results.append(ranks(Path(folder), own.ranks))
        print(results[-1].line(), flush=True)
    return results


if __name__ == "__main__":
    main()
