"""A helper loss that teaches encoders without the language model: say the answer's words at a glance.

A language model that starts from nothing takes long to find out that the token of a region is worth looking
at, and until then the encoder behind it learns next to nothing. Here the region's own token has to name the
words of the answer that follows, in any order, through the language model's table of words; so do the
picture's tokens under the region. (The idea of learning to see from bags of words: Joulin et al. 2016,
"Learning visual features from large weakly supervised data".) The tokens then lie where the words lie, and
the language model has only to read them.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from omnimix.compose.batch import Batch
from omnimix.compose.modality import Encoded
from omnimix.compose.model import MultimodalLM
from omnimix.compose.sequence import IGNORE
from omnimix.train.objectives import Objective


class Glance(Objective):
    """The helper loss alone, or beside that of the text.

    Attributes:
        weight: of the helper loss.
        text: whether the answers' own cross entropy is added. Without it encoders and connectors learn and
            the language model does not run.
    """

    kind: Literal["glance"] = "glance"
    weight: float = Field(default=1.0, gt=0)
    text: bool = False

    def loss(self, model: MultimodalLM, batch: Batch, count: float) -> Tensor:
        items = batch["items"].keeping()
        encoded = model.encode(items)
        helper = self.weight * glance(model, batch, encoded) * batch.targets / count
        if not self.text:
            return helper
        inputs = batch.inputs(mask=False)
        # Items are encoded once for both losses.
        model.features(items, encoded)
        inputs["items"] = items
        output = model(**inputs, labels=batch.labels, num_items_in_batch=count, skip_logits=True)
        loss: Tensor = output.loss
        return loss + helper


def glance(model: MultimodalLM, batch: Batch, encoded: dict[str, Encoded]) -> Tensor:
    """Mean cross entropy of the words that answer a question about a region, seen from its tokens.

    Modalities that look at no other one have no share in it; without any region the loss is 0.
    """
    table = model.get_input_embeddings().weight
    assert isinstance(table, Tensor)
    total = table.new_zeros(())
    for name in model.modalities:
        source = model.recipe.modalities[name].source()
        if source is None or name not in batch["items"]:
            continue
        items = batch["items"][name]
        who, word = bags(batch.labels, firsts(batch, name))
        if not len(who):
            continue
        views = [means(encoded[name].tokens, items.tokens)]
        under = _under(encoded[source].tokens, items.inputs[0], items.on, batch, source)
        views += [] if under is None else [under]
        for view in views:
            # Normed as the language model's own head norms, so that lengths cannot grow for ever.
            scores = functional.rms_norm(view, view.shape[-1:]) @ table.T
            total = total + functional.cross_entropy(scores[who], word)
    return total


def firsts(batch: Batch, name: str) -> Int[Tensor, "items"]:
    """For each item of a modality where it begins in the flattened `[batch * tokens]` ids; -1 where nowhere."""
    places = batch.item_places.flatten()
    count = 1 + sum(sum(one.tokens) for one in batch["items"].values())
    found = places.new_full((count,), -1)
    found.scatter_(0, places, torch.arange(len(places), device=places.device))
    return found[torch.tensor(batch["items"].numbers(name), device=places.device)]


def means(
    tokens: Float[Tensor, "total width"], counts: tuple[int, ...]
) -> Float[Tensor, "items width"]:
    """The mean of each item's tokens."""
    each = torch.tensor(counts, device=tokens.device)
    owner = torch.arange(len(counts), device=tokens.device).repeat_interleave(
        each, output_size=len(tokens)
    )
    return (
        tokens.new_zeros(len(counts), tokens.shape[1]).index_add(0, owner, tokens) / each[:, None]
    )


def bags(
    labels: Int[Tensor, "batch tokens"], places: Int[Tensor, "items"]
) -> tuple[Int[Tensor, "words"], Int[Tensor, "words"]]:
    """The words of the answer that follows each item: (which item, token id) pairs.

    Of several items in front of one answer the last has it, and one that stands nowhere has none.
    """
    flat = labels.flatten()
    learned = flat != IGNORE
    before = torch.cat([learned.new_zeros(1), learned[:-1]])
    run = (learned & ~before).cumsum(0)  # number of the answer that a learned token belongs to
    owner = torch.full((int(run[-1]) + 2,), -1, device=labels.device)
    shown = (places >= 0).nonzero().flatten()
    owner[run[places[shown]] + 1] = shown
    who = owner[run]
    taught = learned & (who >= 0)
    return who[taught], flat[taught]


def _under(
    tokens: Float[Tensor, "total width"],
    regions: Float[Tensor, "items slots 37"],
    on: Int[Tensor, "items"],
    batch: Batch,
    source: str,
) -> Float[Tensor, "items width"] | None:
    """The picture's tokens under each region, averaged; None where they lie on no square grid."""
    pictures = batch["items"][source]
    each = tokens.shape[0] // len(pictures.tiles)
    side = math.isqrt(each)
    if side * side != each or any(tiles != 1 for tiles in pictures.tiles):
        return None
    grid = tokens.view(len(pictures.tiles), side, side, -1).permute(0, 3, 1, 2)[on]
    points = regions[:, 0, 5:].reshape(len(regions), 1, -1, 2) * 2 - 1
    found = functional.grid_sample(
        grid, points.to(grid.dtype), mode="nearest", padding_mode="border", align_corners=False
    )
    return found.mean((-2, -1))
