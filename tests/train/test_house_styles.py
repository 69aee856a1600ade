"""One conversation in three styles of prompts and through three types of language model."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from omnimix.compose import recipe as recipes
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.data.sources import JsonlSource
from omnimix.generate.assistant import Assistant
from omnimix.prompts import template as templates
from omnimix.train import optim
from omnimix.train.settings import Stage
from omnimix.train.step import optimizer_step
from omnimix.types import Media, Sample, Turn
from tests.conftest import TINY

LANGUAGES = ("llama", "mistral", "qwen2")
TEMPLATES = ("plain", "mistral_instruct", "vicuna_v15")
ADAPTED = "adapters=[{r: 2}]"


def conversation() -> Sample:
    picture = Media.image(Image.new("RGB", (64, 48), "red"))
    return Sample(
        (
            Turn("user", (picture, "What is here?")),
            Turn("assistant", ("a red ring",)),
            Turn("user", ("And its colour?",)),
            Turn("assistant", ("red",)),
        )
    )


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("template", TEMPLATES)
def test_it_is_learned_and_answered(language: str, template: str) -> None:
    words = (f"language.config.model_type={language}", f"template={template}", ADAPTED)
    recipe = recipes.load("nano", (*TINY, *words))
    torch.manual_seed(0)
    model, processor = MultimodalLM.from_recipe(recipe), Processor.from_recipe(recipe)
    assert model.language.config.model_type == language
    sample = conversation()
    batch = processor([sample])
    learned = processor.weave.tokenizer.decode(batch.labels[batch.labels >= 0].tolist())
    assert "a red ring" in learned and "What is here" not in learned
    stage = Stage(
        mixture=[{"data": JsonlSource(path="none")}],
        max_steps=12,
        trainable=("adapters", "connectors"),
        optimizer={"lr": 0.02},
        schedule={"warmup_steps": 1},
    )
    optim.set_trainable(model, stage.trainable)
    optimizer = optim.optimizer(model, stage.optimizer)
    model.train()
    losses = [
        float(optimizer_step(model, optimizer, stage, step, 12, [batch]).loss) for step in range(12)
    ]
    assert losses[-1] < losses[0] - 0.3
    asked = Sample(sample.turns[:3])
    answer = Assistant(model.eval(), processor).reply(asked.turns, max_new_tokens=5)
    assert 0 < len(answer.ids) <= 5


def test_styles_differ_and_the_words_do_not() -> None:
    texts = {}
    for template in TEMPLATES:
        processor = Processor.from_recipe(recipes.load("nano", (*TINY, f"template={template}")))
        texts[template] = processor.weave.tokenizer.decode(
            processor.weave(conversation()).ids.tolist()
        )
    assert len(set(texts.values())) == len(TEMPLATES)
    assert all("And its colour" in text for text in texts.values())


def test_the_shipped_styles_are_known() -> None:
    assert set(templates.names()) >= set(TEMPLATES)
