"""Our model in the tests that transformers runs over every one of its own models.

Collected by `tests/peers/transformers_common.py` alone, which puts the tests of the installed version on the
path as `transformers_tests`.
"""

from __future__ import annotations

import unittest
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from transformers_tests import test_modeling_common as common
from transformers_tests.generation.test_utils import GenerationTesterMixin
from transformers_tests.test_modeling_common import ModelTesterMixin

from omnimix.compose import recipe as recipes
from omnimix.compose.model import MultimodalLM
from omnimix.compose.model_config import OmnimixConfig
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.types import Box, Media, Part, Sample, Turn

SENSES = Path(__file__).parents[2] / "examples" / "senses" / "recipe.yaml"
ENCODER = "modalities.image.branches.0.encoders.0"
SMALL = (
    "language.config.hidden_size=32",
    "language.config.intermediate_size=37",
    "language.config.num_hidden_layers=2",
    "language.config.num_attention_heads=4",
    "language.config.num_key_value_heads=4",
    f"{ENCODER}.args={{embed_dim: 32, depth: 1, num_heads: 4, class_token: false}}",
    f"{ENCODER}.img_size=32",
    f"{ENCODER}.finish=[]",
)
ONE_VIEW = "modalities.image.steps=[{kind: resize_crop, size: 32, interpolation: bilinear}]"
TILES = "modalities.image.steps=[{kind: anyres, size: 32, grids: [[1, 1], [2, 1], [1, 2]]}]"


def tiny() -> Recipe:
    """nano, shrunk."""
    return recipes.load("nano", [*SMALL, ONE_VIEW])


def tiles() -> Recipe:
    """Two branches with a frame, and tiles of unlike counts."""
    words = recipes.load("nano", [*SMALL, TILES]).dump(defaults=True)
    image = words["modalities"]["image"]
    image["branches"] = [*image["branches"], *image["branches"]]
    image["frame"] = {"start": True, "end": True}
    del words["modalities"]["region"]
    return recipes.parse(words, "tiles")


def sound() -> Recipe:
    """Pictures and sounds."""
    words = recipes.load(SENSES, [*SMALL, ONE_VIEW]).dump(defaults=True)
    del words["modalities"]["video"], words["modalities"]["document"]
    return recipes.parse(words, "sound")


class Tester:
    """What the common tests ask about a model: a configuration, and inputs of two unlike rows."""

    batch_size = 2
    is_training = True

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.processor = Processor.from_recipe(recipe)
        self.inputs = self._inputs()
        text = recipe.language.hf_config()
        self.seq_length = int(self.inputs["input_ids"].shape[1])
        self.hidden_size = text.hidden_size
        self.num_hidden_layers = text.num_hidden_layers
        self.num_attention_heads = text.num_attention_heads
        self.vocab_size = text.vocab_size

    def _inputs(self) -> dict[str, Any]:
        samples = []
        for i, side in enumerate((40, 56)):
            pixels = np.random.default_rng(i).integers(0, 255, (40, side, 3), dtype=np.uint8)
            parts: list[Part] = [Media.image(Image.fromarray(pixels)), "What is " * (i + 1)]
            if "region" in self.recipe.modalities:
                parts += [Media.region(Box(2, 3, 20, 30)), "here"]
            if "speech" in self.recipe.modalities:
                wave = np.random.default_rng(i).standard_normal(1600).astype(np.float32)
                parts.append(Media.audio((wave, 16000)))
            samples.append(Sample((Turn("user", tuple(parts)),), str(i)))
        batch = self.processor(samples, open_answer=True)
        return dict(batch.inputs())

    def get_config(self) -> OmnimixConfig:
        return OmnimixConfig(recipe=self.recipe)

    def prepare_config_and_inputs_for_common(self) -> tuple[OmnimixConfig, dict[str, Any]]:
        return self.get_config(), dict(self.inputs)


class Body(MultimodalLM):
    """The model without its head, as the tests of rotary positions ask for one."""

    def forward(self, input_ids: Any = None, **words: Any) -> Any:
        return self.base_model(input_ids, **words)


# They know a model without head by its name.
common.MODEL_MAPPING_NAMES["omnimix"] = Body.__name__


class Common(ModelTesterMixin, GenerationTesterMixin):  # type: ignore[misc]
    """The common tests over one recipe."""

    all_model_classes = (MultimodalLM,)
    _is_composite = True
    test_can_init_all_missing_weights_before_2023 = True
    recipe: ClassVar[Any]

    def _prepare_for_class(
        self, inputs_dict: dict[str, Any], model_class: type, return_labels: bool = False
    ) -> dict[str, Any]:
        # Theirs knows by the names of their own classes which labels a model takes.
        inputs: dict[str, Any] = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels:
            inputs["labels"] = inputs["input_ids"].clone()
        return inputs

    def setUp(self) -> None:
        self.model_tester = Tester(type(self).recipe())
        if "rope" in self._testMethodName:
            self.all_model_classes = (Body,)


class TestNano(Common, unittest.TestCase):
    recipe = staticmethod(tiny)


class TestTiles(Common, unittest.TestCase):
    recipe = staticmethod(tiles)


class TestSound(Common, unittest.TestCase):
    recipe = staticmethod(sound)


del Common, ModelTesterMixin, GenerationTesterMixin  # pytest shall not collect these by themselves
