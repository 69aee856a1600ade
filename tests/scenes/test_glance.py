"""The helper loss: which words belong to which region, what learns from it, and what does not."""

from __future__ import annotations

import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.compose.sequence import IGNORE
from omnimix.train.objectives import Sft
from omnimix.types import Box, Media, Point, Sample, Turn
from omnimix_scenes.glance import Glance, bags, firsts, glance


def sample(*exchanges: tuple[Point | Box | None, str], colour: str = "red") -> Sample:
    turns: list[Turn] = []
    front: tuple[Media, ...] = (Media.image(Image.new("RGB", (64, 64), colour)),)
    for region, answer in exchanges:
        asked = (Media.region(region),) if region else ("Is it red?",)
        turns += [Turn("user", (*front, *asked)), Turn("assistant", (answer,))]
        front = ()
    return Sample(tuple(turns))


def words_of(batch: Batch, processor: Processor) -> list[str]:
    """For each region the words it has to name."""
    who, word = bags(batch.labels, firsts(batch, "region"))
    regions = len(batch["items"]["region"].tiles)
    return [
        processor.weave.tokenizer.decode(word[who == k].tolist()).strip() for k in range(regions)
    ]


def test_a_region_names_the_answer_that_follows_it(tiny_processor: Processor) -> None:
    samples = [
        sample((Point(9, 9), "a red ring"), (None, "yes"), (Box(1, 1, 30, 30), "blue star")),
        sample((None, "no"), (Point(3, 3), "green"), (None, "yes")),
    ]
    for pack in (False, True):
        woven = [tiny_processor.weave(s) for s in samples]
        batch = tiny_processor.batch(woven, pack=pack)
        assert words_of(batch, tiny_processor) == ["a red ring", "blue star", "green"]


def test_of_two_regions_in_one_question_the_last_has_the_answer(tiny_processor: Processor) -> None:
    first = (Media.image(Image.new("RGB", (64, 64))), Media.region(Point(1, 1)))
    asked = Turn("user", (*first, " or ", Media.region(Point(50, 50))))
    batch = tiny_processor(Sample((asked, Turn("assistant", ("red",)))))
    assert words_of(batch, tiny_processor) == ["", "red"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), min_size=1, max_size=4))
def test_bags_are_those_of_a_plain_loop(rows: list[list[int]]) -> None:
    # 0 is text, 1 an item, 2 and 3 learned words; rows side by side, as a padded batch has them.
    width = max(map(len, rows))
    flat = [value for row in rows for value in row + [0] * (width - len(row))]
    labels = torch.tensor([v if v > 1 else IGNORE for v in flat]).view(len(rows), width)
    places = torch.tensor([i for i, value in enumerate(flat) if value == 1], dtype=torch.long)
    expected: list[tuple[int, int]] = []
    if len(places):
        last, open_run, item = -1, -1, -1
        for value in flat:
            if value == 1:
                item += 1
                last = item
                open_run = -1
            elif value > 1:
                if last >= 0:
                    open_run, last = last, -1
                if open_run >= 0:
                    expected.append((open_run, value))
            else:
                open_run = -1
        who, word = bags(labels, places)
        assert list(zip(who.tolist(), word.tolist(), strict=True)) == expected


def test_it_teaches_encoders_and_words_but_no_layer_of_the_language_model(
    tiny_recipe: Recipe, tiny_processor: Processor
) -> None:
    torch.manual_seed(0)
    model = MultimodalLM.from_recipe(tiny_recipe)
    batch = tiny_processor([sample((Point(9, 9), "a red ring"))])
    Glance().loss(model, batch, batch.targets).backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None}
    assert any(name.startswith("image.branches.0.encoders.0") for name in learned)
    assert any(name.startswith("image.branches.0.connector") for name in learned)
    assert any(name.startswith("region.branches.0.connector") for name in learned)
    assert "language.model.embed_tokens.weight" in learned
    assert not any(name.startswith("language.model.layers") for name in learned)


def test_colours_are_learned_at_a_glance(tiny_recipe: Recipe, tiny_processor: Processor) -> None:
    torch.manual_seed(0)
    model = MultimodalLM.from_recipe(tiny_recipe).train()
    names = ("red", "green", "blue", "white")
    batch = tiny_processor([sample((Point(30, 30), name), colour=name) for name in names])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        loss = glance(model, batch, model.encode(batch["items"]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 3


def test_beside_the_loss_of_the_text(tiny_model: MultimodalLM, tiny_processor: Processor) -> None:
    batch = tiny_processor([sample((Point(9, 9), "a red ring"), (None, "yes"))])
    with torch.no_grad():
        plain = Sft().loss(tiny_model, batch, batch.targets)
        both = Glance(weight=0.5, text=True).loss(tiny_model, batch, batch.targets)
        helper = glance(tiny_model, batch, tiny_model.encode(batch["items"]))
    torch.testing.assert_close(both, plain + 0.5 * helper)


def test_without_regions_there_is_nothing_to_say(
    tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    batch = tiny_processor([sample((None, "yes"))])
    assert float(glance(tiny_model, batch, tiny_model.encode(batch["items"]))) == 0.0
