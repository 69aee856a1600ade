"""How like two texts mean: the cosine of a sentence encoder's vectors.

The published numbers use sentence-transformers/all-MiniLM-L6-v2. Nothing is fetched: `OMNIMIX_SENTENCE_ENCODER` names
the folder that it, or another encoder of transformers' layout, lies in.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnimix.errors import OmnimixError
from omnimix.evaluate.measure import Each, Reference, Score, worded
from omnimix.generate.answers import Answer

if TYPE_CHECKING:
    import torch

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
FOLDER = "OMNIMIX_SENTENCE_ENCODER"
TOKENS = 256
"""That encoder was made for so many; longer texts are cut there, by its authors too."""


class SentenceSimilarity(Each):
    """The mean cosine of answer and reference as all-MiniLM-L6-v2 sees them; the nearest reference counts."""

    def check(self, reference: Reference) -> None:
        worded(reference)

    def one(self, prediction: Answer, reference: Reference) -> float:
        given, *truths = vectors([prediction.text, *reference.texts], folder())
        return max(float(given @ true) for true in truths)

    def score(self, predictions: Sequence[Answer], references: Sequence[Reference]) -> Score:
        found = super().score(predictions, references)
        return Score(found.value, found.each, found.groups, ceiling=None)


def folder() -> Path:
    """Where the encoder lies.

    Raises:
        OmnimixError: nothing says so, or nothing is there.
    """
    place = Path(os.environ.get(FOLDER, ""))
    if not os.environ.get(FOLDER) or not (place / "config.json").is_file():
        raise OmnimixError(
            "there is no sentence encoder",
            where=str(place) if os.environ.get(FOLDER) else None,
            hint=f"let {FOLDER} name a folder with {ENCODER}",
        )
    return place


def vectors(texts: Sequence[str], place: Path) -> torch.Tensor:
    """One vector of length 1 a text: the mean over its tokens, as the encoder's authors pool."""
    import torch

    tokenizer, model = _loaded(place)
    given = tokenizer(
        list(texts), padding=True, truncation=True, max_length=TOKENS, return_tensors="pt"
    )
    with torch.inference_mode():
        hidden = model(**given).last_hidden_state
    mask = given["attention_mask"][..., None].to(hidden.dtype)
    mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
    return torch.nn.functional.normalize(mean, dim=-1)


@lru_cache(maxsize=1)
def _loaded(place: Path) -> tuple[Any, Any]:
    """Tokenizer and encoder; loading them costs more than a thousand pairs of labels."""
    from transformers import AutoModel, AutoTokenizer

    return (
        AutoTokenizer.from_pretrained(place, local_files_only=True),
        AutoModel.from_pretrained(place, local_files_only=True).eval(),
    )
