"""Splice: fill the holes (device)."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from omnimix.errors import SpliceError


def splice(
    embeddings: Float[Tensor, "batch tokens width"],
    features: Float[Tensor, "given width"],
    index: Int[Tensor, "places"],
    name: str = "item",
) -> Float[Tensor, "batch tokens width"]:
    """Put features into the places that weave left for them.

    Only their number is checked: which feature belongs where is settled on the CPU by `collate`, which
    refuses items that do not fit their holes. Looking at the places here would make the device wait.

    Args:
        embeddings: of the text; holes hold anything.
        features: of one modality, in the order of their holes.
        index: places in the flattened `[batch * tokens]`.
        name: of the modality, for the message.

    Raises:
        SpliceError: the numbers differ, so the sample was woven for another recipe.
    """
    if index.shape[0] != features.shape[0]:
        raise SpliceError(
            f"{features.shape[0]} features of {name!r} for {index.shape[0]} places",
            hint="weave the samples with the recipe of this very model",
        )
    flat = embeddings.flatten(0, 1)
    filled: Tensor = flat.index_copy(0, index, features.to(flat.dtype))
    return filled.view(embeddings.shape)
