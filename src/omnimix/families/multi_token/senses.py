"""The senses of multi_token by name; `senses.yaml` has a row for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omnimix.config import read_yaml
from omnimix.errors import CheckpointError
from omnimix.families.multi_token.encoders import Heard, Read, Seen, Sense
from omnimix.families.multi_token.imagebind import ImageBindSense

KINDS = {"seen": Seen, "heard": Heard, "read": Read, "imagebind": ImageBindSense}


def _sense(kind: str, **words: Any) -> Sense:
    lists = {word: tuple(said) for word, said in words.items() if isinstance(said, list)}
    return KINDS[kind](**{**words, **lists})


SENSES: dict[str, Sense] = {
    name: _sense(**row) for name, row in read_yaml(Path(__file__).with_suffix(".yaml")).items()
}
"""By the reference's names."""

THEIRS = {sense.name: name for name, sense in SENSES.items()}
"""The reference's names by ours."""

BUILDERS: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in SENSES},
    "vision_clip_pool": ("vision_clip",),
    "document_gte_x16": ("document_gte",),
}
"""The modalities that a builder makes. How many tokens each gives is told by its projector."""


def sense(name: str, where: str) -> Sense:
    """A modality by the reference's name.

    Raises:
        CheckpointError: it is none of the published ones.
    """
    if name not in SENSES:
        raise CheckpointError(
            f"unknown modality {name!r}",
            where=where,
            hint=f"the published ones are {', '.join(SENSES)}; open others from a recipe of your own",
        )
    return SENSES[name]
