"""Looking inside a forward: what each encoder got and gave, what the connector got and gave, embeddings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from omnimix.compose.batch import Batch
from omnimix.compose.modality import Branch
from omnimix.compose.model import MultimodalLM


@dataclass
class Seen:
    """Stages of one forward.

    Attributes:
        pixels: for each encoder of the branch what it was given, `[tiles, 3, height, width]`.
        features: for each encoder what it gave after its finishing steps, `[tiles, n, d]`.
        mixed: what the connector was given.
        connected: what it gave.
        embeddings: text and items together, `[batch, tokens, width]`.
        logits: `[batch, tokens, vocabulary]`.
        loss: where labels were given.
    """

    pixels: list[Tensor] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)
    mixed: Tensor | None = None
    connected: Tensor | None = None
    embeddings: Tensor | None = None
    logits: Tensor | None = None
    loss: Tensor | None = None


def forward(
    model: MultimodalLM,
    batch: Batch,
    labels: Tensor | None = None,
    modality: str = "image",
    branch: int = 0,
) -> Seen:
    """Run the model's own forward and keep what passes by; gradients are recorded as the caller wants."""
    seen = Seen()
    with _watched(model, seen, modality, branch):
        output = model(**batch.inputs(), labels=labels)
    seen.logits, seen.loss = output.logits, output.loss
    return seen


@contextlib.contextmanager
def _watched(model: MultimodalLM, seen: Seen, modality: str, number: int) -> Iterator[None]:
    branch = model.modality(modality).branches[number]
    assert isinstance(branch, Branch)

    def encoder(_: Any, given: tuple[Tensor, ...]) -> None:
        seen.pixels.append(given[0].detach())

    def finish(_: Any, __: Any, gave: Tensor) -> None:
        seen.features.append(gave.detach())

    def connector(_: Any, given: tuple[Tensor, ...], gave: Tensor) -> None:
        seen.mixed, seen.connected = given[0].detach(), gave.detach()

    def language(_: Any, __: Any, words: dict[str, Any]) -> None:
        seen.embeddings = words["inputs_embeds"].detach()

    handles = [module.register_forward_pre_hook(encoder) for module in branch.encoders]
    handles += [module.register_forward_hook(finish) for module in branch.finishes]
    handles.append(branch.connector.register_forward_hook(connector))
    handles.append(model.language.register_forward_pre_hook(language, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def columns(logits: Tensor, count: int) -> Tensor:
    """Every k-th column, k such that there are `count` of them (goldens store thinned logits)."""
    width = logits.shape[-1]
    step = -(-width // max(count, 1))
    return logits[..., ::step]
