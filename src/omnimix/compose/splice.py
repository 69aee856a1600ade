"""Splice: fill the holes (device)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from omnimix.errors import SpliceError


def splice(
    embeddings: Float[Tensor, "batch tokens width"],
    features: Float[Tensor, "given width"],
    places: Int[Tensor, "rows columns"],
) -> Float[Tensor, "batch tokens width"]:
    """Put features into the places that weave left for them.

    A gather: rows may take the same feature, and its gradient is then the sum of theirs. Which feature belongs
    where was settled by `collate`; nothing here makes the host wait for a CUDA device.

    Args:
        embeddings: of the text; holes hold anything.
        features: of all items of all modalities, in their order.
        places: for every token 0 where it is text, else one more than the number of the feature it takes.

    Raises:
        SpliceError: places of other rows than the embeddings, or a place beyond the features (which a CUDA device
            reports in its own words).
    """
    if places.shape != embeddings.shape[:2]:
        raise SpliceError(
            f"item_places are {list(places.shape)}, the tokens {list(embeddings.shape[:2])}",
            hint="cut, repeat and pad item_places (with 0) as input_ids are",
        )
    # A first row stands for text: nothing is read from it, and nothing flows back into it.
    table = torch.cat([features.new_zeros(1, features.shape[1]), features]).to(embeddings.dtype)
    try:
        found = functional.embedding(places, table, padding_idx=0)
    except IndexError:
        raise SpliceError(
            f"item_places name feature {int(places.max())}, and the items have {len(features)}",
            hint="give the items of the very batch that the rows come from",
        ) from None
    return torch.where((places > 0).unsqueeze(-1), found, embeddings)
