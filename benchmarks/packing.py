"""A training step on samples of different lengths: packed in one row against padded to the longest.

Run `python -m benchmarks.packing`. The model is nano's recipe made small; the loss of both is the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.harness import Pair, Result, report
from omnimix.compose import recipe as recipes
from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM, token_loss
from omnimix.compose.processor import Processor
from omnimix.types import Sample, Turn

SMALL = (
    "language.config.hidden_size=128",
    "language.config.intermediate_size=256",
    "language.config.num_hidden_layers=4",
    "language.config.num_attention_heads=4",
    "language.config.num_key_value_heads=4",
)


def samples(words: Sequence[int] = (8, 16, 24, 40, 64, 96, 160, 300)) -> list[Sample]:
    """Conversations of text alone, of so many words each."""
    return [
        Sample((Turn("user", ("red " * count,)), Turn("assistant", ("a cup",))), f"{count} words")
        for count in words
    ]


def step(model: MultimodalLM, batch: Batch) -> Tensor:
    """Forward and backward; the gradients are thrown away."""
    model.zero_grad()
    loss = token_loss(model(**batch.inputs(mask=False)).logits, batch.labels)
    loss.backward()
    return loss.detach()


def pairs(overrides: Sequence[str] = SMALL) -> list[Pair]:
    """Packed against padded."""
    torch.manual_seed(0)
    recipe = recipes.load("nano", overrides)
    model, processor = MultimodalLM.from_recipe(recipe), Processor.from_recipe(recipe)
    woven = [processor.weave(sample) for sample in samples()]
    packed, padded = processor.batch(woven, pack=True), processor.batch(woven)
    lengths = f"{len(woven)} samples of {min(map(len, woven))} to {max(map(len, woven))} tokens"
    return [
        Pair(
            f"packed, {lengths}", lambda: step(model, packed), lambda: step(model, padded), "padded"
        )
    ]


def main(words: Sequence[str] | None = None) -> list[Result]:
    """Run and report."""
    return report(pairs(), words)


if __name__ == "__main__":
    main()
