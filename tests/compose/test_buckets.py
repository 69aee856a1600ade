"""Items of one modality may differ in shape: each shape goes through the encoders once, in order again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from omnimix.compose import recipe as recipes
from omnimix.compose.batch import Batch
from omnimix.compose.item_batch import Bucket, ItemBatch
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.types import Media, Sample
from tests.compose.conversations import every_region, picture, talk
from tests.conftest import TINY
from tests.models import random_model


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """Convolutions with a perceiver behind, which take tiles of any size: pictures keep their own."""
    return recipes.load(
        "nano",
        (
            *TINY,
            "modalities={image: {opens: image, branches: [{encoders: [{kind: timm, model: convnext_atto, "
            "img_size: 64, args: {depths: [1, 1, 1, 1], dims: [4, 8, 12, 16]}, steps: [{kind: normalize, "
            "mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}]}], connector: {kind: perceiver, latents: 3, "
            "depth: 1, heads: 2, dim_head: 4}}]}}",
        ),
    )


SAMPLES = [
    talk((picture(64, 64, 1), "and", picture(96, 64, 2), "?"), "a"),
    talk("No picture.", "b"),
    talk((picture(64, 64, 3), "?"), "c"),
    talk((picture(96, 64, 4), picture(64, 96, 5), "?"), "d"),
]


@pytest.fixture(scope="module")
def model(recipe: Recipe) -> MultimodalLM:
    return random_model(recipe)


def logits(model: MultimodalLM, batch: Batch) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**batch.inputs()).logits
    return found


def test_a_batch_of_several_shapes_equals_one_at_a_time(
    recipe: Recipe, model: MultimodalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = Processor.from_recipe(recipe)
    woven = [processor.weave(sample) for sample in SAMPLES]
    batch = processor.batch(woven)
    items = batch["items"]["image"]
    assert items.inputs == () and [bucket.rows for bucket in items.buckets] == [
        (0, 2),
        (1, 3),
        (4,),
    ]
    calls: list[tuple[int, ...]] = []
    encoder = model.image.branches[0].encoders[0]
    hook = encoder.register_forward_pre_hook(lambda _, given: calls.append(tuple(given[0].shape)))
    together = logits(model, batch)
    assert calls == [(2, 3, 64, 64), (2, 3, 64, 96), (1, 3, 96, 64)]  # one call for each shape
    hook.remove()
    for row, sequence in zip(together, woven, strict=True):
        wanted = logits(model, processor.batch([sequence]))[0]
        torch.testing.assert_close(row[: len(sequence)], wanted, atol=1e-5, rtol=1e-5)


def test_items_of_one_shape_are_no_buckets(recipe: Recipe) -> None:
    processor = Processor.from_recipe(recipe)
    items = processor([SAMPLES[2]])["items"]["image"]
    assert items.buckets == () and items.inputs[0].shape == (1, 3, 64, 64)


def test_moving_keeps_buckets(recipe: Recipe) -> None:
    items = Processor.from_recipe(recipe)(SAMPLES)["items"]["image"].to("meta")
    assert all(tensor.is_meta for tensor in items.tensors()) and len(items.tensors()) == 3


def test_maps_and_regions_follow_their_items(
    tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    """Items cut into buckets by hand, in both modalities, give the tokens and maps that they gave together."""
    regions = [Media.region(region) for region in every_region(50, 20)]
    sample = talk(
        (picture(50, 20, 1), *regions[:2], picture(50, 20, 2), *regions[2:], "?"), "An answer."
    )
    batch = tiny_processor([sample, talk((picture(9, 9, 3), "?"), "b")])
    assert isinstance(sample, Sample)
    whole = tiny_model.encode(batch["items"])
    cut = {name: _cut(items) for name, items in batch["items"].items()}
    parts = tiny_model.encode(cut)
    for name in whole:
        torch.testing.assert_close(parts[name].tokens, whole[name].tokens)
    assert whole["image"].map is not None and parts["image"].map is not None
    torch.testing.assert_close(parts["image"].map, whole["image"].map)


def _cut(items: ItemBatch) -> ItemBatch:
    """Every second item in a bucket of its own."""
    (tiles,) = items.inputs
    assert set(items.tiles) == {1}
    rows = [tuple(range(len(tiles)))[start::2] for start in (0, 1)]
    buckets = tuple(Bucket(own, (tiles[list(own)],)) for own in rows if own)
    return replace(items, inputs=(), buckets=buckets)
