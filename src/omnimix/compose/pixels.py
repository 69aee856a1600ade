"""Names by which trainers of others carry pictures: `pixel_values`, and `mm_token_type_ids` for their places.

TRL slices, joins and repeats what it knows by name alone, and leaves the rest behind. `mm_token_type_ids`, rather
than `token_type_ids`, since PEFT's prompt tuning throws the latter away and transformers' `generate` lengthens them
by their last value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from omnimix.compose.batch import Batch
from omnimix.compose.item_batch import ItemBatch, ItemBatches
from omnimix.compose.recipe import Recipe
from omnimix.errors import SpliceError

PIXELS, PLACES = "pixel_values", "mm_token_type_ids"

Pixels = Float[Tensor, "pictures tiles 3 h w"] | UInt8[Tensor, "pictures tiles 3 h w"]


def rename(batch: Batch, recipe: Recipe) -> None:
    """Give a batch their names: of its places, and of its items where these are pictures of one shape alone.

    Other items stay under `items`. A batch of texts has none of these.
    """
    places, items = batch.pop("item_places"), batch.pop("items")
    if not items:
        return
    batch[PLACES] = places
    pixels = _pixels(items, recipe)
    batch["items" if pixels is None else PIXELS] = items if pixels is None else pixels


def _pixels(items: ItemBatches, recipe: Recipe) -> Pixels | None:
    """The pictures; None where more has to be told of an item than its pixels."""
    name = recipe.modality_for("image")
    if name is None or list(items) != [name]:
        return None
    one = items[name]
    told = recipe.modalities[name].arrange is not None or len(one.inputs) != 1
    if told or len(set(one.tiles)) != 1 or len(set(one.tokens)) != 1 or one.inputs[0].ndim != 4:
        return None
    pixels: Pixels = one.inputs[0].unflatten(0, (len(one.tiles), one.tiles[0]))
    return pixels


def own(words: dict[str, Any], recipe: Recipe, per_tile: Mapping[str, int]) -> dict[str, Any]:
    """Words of a call with our names in place of theirs.

    Places beside `pixel_values` are taken in their order, row by row, whatever their numbers: rows may have been
    cut out of a batch together with their pictures.

    Args:
        per_tile: tokens of one tile, by modality.

    Raises:
        SpliceError: both names of one thing, one without the other, or as many places as no such pictures have.
    """
    pixels, places = words.pop(PIXELS, None), words.pop(PLACES, None)
    for theirs, ours, given in ((PIXELS, "items", pixels), (PLACES, "item_places", places)):
        if given is not None and words.get(ours) is not None:
            raise SpliceError(
                f"both {theirs} and {ours}", hint="they say the same; hand on one of them"
            )
    if places is not None:
        words["item_places"] = places
    if pixels is None:
        return words
    if words.get("item_places") is None:
        raise SpliceError(
            f"{PIXELS} without {PLACES}",
            hint="hand on both, as the processor gave them (`model(**batch)`); TRL and PEFT leave out what they "
            "do not know",
        )
    marked = words["item_places"] > 0
    words["items"] = _items(pixels, int(marked.sum()), recipe, per_tile)
    words["item_places"] = marked.flatten().cumsum(0).view_as(marked) * marked
    return words


def _items(pixels: Tensor, places: int, recipe: Recipe, per_tile: Mapping[str, int]) -> ItemBatches:
    name = recipe.modality_for("image")
    spec = None if name is None else recipe.modalities[name]
    if (
        name is None
        or spec is None
        or pixels.ndim != 5
        or spec.arrange
        or len(spec.inputs()[0]) > 1
    ):
        raise SpliceError(
            f"{PIXELS} {list(pixels.shape)} say too little of the pictures of {recipe.name!r}",
            hint="hand on items as the processor gives them; it gives pixel_values [pictures, tiles, 3, height, "
            "width] where these are enough",
        )
    count, tiles = pixels.shape[:2]
    tokens = spec.groups(tiles) * per_tile[name]
    if places != count * tokens:
        raise SpliceError(
            f"{places} places for {count} pictures of {tokens} tokens",
            hint="rows were cut within a picture (raise max_length), or hold others than their own pictures",
        )
    if not count:
        return ItemBatches()
    nowhere = (0, 0)
    one = ItemBatch(
        inputs=(pixels.flatten(0, 1),),
        tiles=(tiles,) * count,
        sizes=(nowhere,) * count,
        grids=(nowhere,) * count,
        tokens=(tokens,) * count,
        on=torch.full((count,), -1, device=pixels.device),
    )
    return ItemBatches({name: one})
