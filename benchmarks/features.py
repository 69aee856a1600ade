"""Training of the connector alone: pictures encoded in every step, or their features read from the cache.

Run `python -m benchmarks.features`. A language model of 30 M parameters and a ViT-S beside pictures of 640 x 480 on the
disk; a step opens or finds its eight pictures, runs forward and backward and moves the weights. The peer of the last
lines learns everything from padded rows, as trainers do that know nothing of either.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.harness import Pair, Result, report
from omnimix.compose import features, recipe as recipes
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.train import optim
from omnimix.train.settings import OptimizerSpec
from omnimix.types import Media, Sample, Turn

LARGE = (
    "language.config.hidden_size=384",
    "language.config.intermediate_size=1024",
    "language.config.num_hidden_layers=10",
    "language.config.num_attention_heads=6",
    "language.config.num_key_value_heads=6",
    "language.config.vocab_size=32000",
    "language.config.max_position_embeddings=4096",
    "modalities.image.branches=[{encoders: [{kind: timm, model: vit_small_patch16_224, img_size: 224, "
    "steps: [{kind: normalize, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}], finish: [drop_prefix]}], "
    "connector: mlp}]",
)
CAPTIONS = (12, 18, 25, 31, 14, 22, 40, 16)
TALKS = (20, 600, 150, 60, 320, 40, 240, 90)
"""Words of the answers of a batch."""


def samples(folder: Path, words: Sequence[int]) -> list[Sample]:
    """A picture on the disk, a question and an answer of so many words, each."""
    chance = np.random.default_rng(0)
    made = []
    for i, count in enumerate(words):
        file = folder / f"{i}.jpg"
        if not file.exists():
            rough = Image.fromarray(chance.integers(0, 255, (48, 64, 3)).astype(np.uint8))
            rough.resize((640, 480)).save(file, quality=90)
        asked = Turn("user", (Media.image(str(file)), "What is it?"))
        made.append(Sample((asked, Turn("assistant", ("red " * count,))), str(i)))
    return made


class Side:
    """One way of training: what learns, whether rows are packed, and what is kept.

    Args:
        cache: `warm`, `cold` (nothing is there when a step begins) or None.
    """

    def __init__(self, learns: str, pack: bool, folder: Path, cache: str | None = None) -> None:
        torch.manual_seed(0)
        recipe = recipes.load("nano", LARGE)
        self.model, self.processor = (
            MultimodalLM.from_recipe(recipe),
            Processor.from_recipe(recipe),
        )
        optim.set_trainable(self.model, (learns,))
        self.model.train()
        self.optimizer = optim.optimizer(self.model, OptimizerSpec(lr=1e-4))
        self.pack, self.cache, self.folder = pack, cache, folder / f"{learns}-{cache}"
        if cache is not None:
            words = features.FeatureCacheSpec(folder=str(self.folder))
            features.keep(self.model, self.processor, words, learns=True)

    def step(self, given: Sequence[Sample]) -> Tensor:
        """One optimizer step."""
        if self.cache == "cold":
            for file in self.folder.rglob("*.safetensors"):
                file.unlink()
        woven = [self.processor.weave(sample) for sample in given]
        batch = self.processor.batch(woven, pack=self.pack)
        loss: Tensor = self.model(**batch.inputs(mask=False), labels=batch.labels).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


def pairs(folder: Path) -> list[Pair]:
    """Warm against cold, against no cache, and against learning everything."""
    warm = Side("connectors", True, folder, "warm")
    cold = Side("connectors", True, folder, "cold")
    plain = Side("connectors", True, folder)
    full = Side("*", False, folder)
    made = []
    for name, words in (("captions", CAPTIONS), ("talks", TALKS)):
        given = samples(folder, words)
        same(warm, plain, given)

        def of(side: Side, given: list[Sample] = given) -> Callable[[], Tensor]:
            return lambda: side.step(given)

        for peer, against in (
            (cold, "features written"),
            (plain, "connector, no cache"),
            (full, "everything learns, padded"),
        ):
            made.append(Pair(f"connector, warm features, {name}", of(warm), of(peer), against))
    return made


def same(warm: Side, plain: Side, given: Sequence[Sample]) -> None:
    """The same loss with and without what is kept, to the last bit, or this says how far apart."""
    for side in (warm, warm, plain):  # the first time it is written
        with torch.no_grad():
            batch = side.processor.batch([side.processor.weave(one) for one in given], pack=True)
            side.loss = side.model(**batch.inputs(mask=False), labels=batch.labels).loss  # type: ignore[attr-defined]
    apart = float((warm.loss - plain.loss).abs())  # type: ignore[attr-defined]
    print(f"loss with and without kept features: {'equal' if not apart else f'{apart:.1e} apart'}")


def main(words: Sequence[str] | None = None) -> list[Result]:
    """Run and report."""
    with tempfile.TemporaryDirectory() as folder:
        return report(pairs(Path(folder)), words)


if __name__ == "__main__":
    main()
