"""What pictures in the text cost beside encoding them: collate and splice against a plain embedding.

Run `python -m benchmarks.splicing`. The features are at hand on both sides, so that only the way of the
tokens is timed; a ratio of 0.5 means that collating and splicing take as long as padding and embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness import Pair, Result, report
from omnimix.compose import recipe as recipes
from omnimix.compose.processor import Processor
from omnimix.compose.sequence import Sequence as Woven
from omnimix.compose.splice import splice
from omnimix_scenes import Scenes


def plain(woven: Sequence[Woven], table: nn.Embedding, pad: int) -> Tensor:
    """Padded ids through the table, nothing else."""
    width = max(map(len, woven))
    ids = np.full((len(woven), width), pad, dtype=np.int64)
    for row, sequence in zip(ids, woven, strict=True):
        row[: len(sequence)] = sequence.ids
    embedded: Tensor = table(torch.from_numpy(ids))
    return embedded


def spliced(
    woven: Sequence[Woven], table: nn.Embedding, processor: Processor, features: Tensor
) -> Tensor:
    """The batch as training makes it, and the features put into their places."""
    batch = processor.batch(woven)
    embedded: Tensor = table(batch.input_ids)
    return splice(embedded, features, batch.item_places)


def pairs(count: int = 16, width: int = 2048) -> list[Pair]:
    """Drawn scenes with their questions, at a language model's width."""
    processor = Processor.from_recipe(recipes.load("nano"))
    woven = [processor.weave(Scenes(0)[i]) for i in range(count)]
    table = nn.Embedding(processor.weave.tokenizer.size, width).requires_grad_(False)
    features = torch.randn(int(processor.batch(woven).item_places.max()), width)
    return [
        Pair(
            f"collate and splice, {count} samples, width {width}",
            lambda: spliced(woven, table, processor, features),
            lambda: plain(woven, table, processor.weave.tokenizer.pad),
            "pad and embed",
        )
    ]


def main(words: Sequence[str] | None = None) -> list[Result]:
    """Run and report."""
    with torch.no_grad():
        return report(pairs(), words)


if __name__ == "__main__":
    main()
