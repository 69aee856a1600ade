"""The modalities of multi_token: which encoder each has, and its words in a recipe.

The words are those of a shipped recipe (`Sense.recipe`); what a folder of the encoder says of its own sizes is
laid over them, so that a stand-in of another size opens like the release.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnimix.checkpoints import parts as places
from omnimix.checkpoints.tables import RenameTable
from omnimix.compose import recipe as recipes
from omnimix.compose.modality import ModalitySpec
from omnimix.errors import CheckpointError
from omnimix.families.multi_token import encoders, imagebind
from omnimix.families.multi_token.names import Projector

BIN = (*places.CONFIGS, "pytorch_model*.bin")
SAFE = (*places.CONFIGS, *places.WEIGHTS)


@dataclass(frozen=True)
class Sense:
    """One modality of the reference.

    Attributes:
        name: ours.
        hub: hub id of its encoder.
        recipe: the shipped recipe with its words.
        files: patterns of what has to be fetched.
        sized: lays the sizes of an encoder's folder over the modality's words.
        table: keys of the encoder's file, for the place of the encoder on our tree.
        told: the small files of a folder of which `sized` makes the words again.
        carried: files that its steps read, by the names that the steps give them.
    """

    name: str
    hub: str
    recipe: str
    files: tuple[str, ...]
    sized: Callable[[dict[str, Any], Path, Mapping[str, Any]], None]
    table: Callable[[str, Mapping[str, Any]], RenameTable]
    told: Callable[[Mapping[str, Any]], dict[str, Any]]
    carried: Callable[[Mapping[str, Any], Path], dict[str, Path]] = lambda words, place: {}

    def spot(self, place: str | Path | None, part: str) -> Path:
        """Where the encoder lies: a folder, or ImageBind's one file.

        Raises:
            CheckpointError: neither there nor to be had.
        """
        if self.name == "imagebind":
            return imagebind.spot(place)
        return places.folder(place or self.hub, part, self.files)


def words_of(sense: Sense, projector: Projector, place: Path, options: Mapping[str, Any]) -> Any:
    """The words of a modality in a recipe.

    Args:
        projector: what its keys say.
        place: folder of its encoder.
        options: `pad_non_square_images`.
    """
    pooled = projector.tokens is not None
    name = f"{sense.recipe}_pool" if sense.name == "image" and pooled else sense.recipe
    words: dict[str, Any] = copy.deepcopy(recipes.load(name).modalities[sense.name].dump())
    sense.sized(words, place, options)
    connector: dict[str, Any] = {"kind": "mlp", "depth": projector.depth}
    if pooled:
        connector = {"kind": "token_mlp", "tokens": projector.tokens, "depth": projector.depth}
    words["branches"][0]["connector"] = connector
    return words


def alike(one: ModalitySpec, other: ModalitySpec) -> bool:
    """Whether two modalities are the same, their encoders' configurations as transformers completes them."""
    return _completed(one) == _completed(other)


def _completed(spec: ModalitySpec) -> dict[str, Any]:
    words: dict[str, Any] = spec.dump()
    for branch in words["branches"]:
        for encoder in branch["encoders"]:
            word = encoders.CONFIGURED.get(encoder["kind"])
            if word is not None:
                encoder[word] = encoders.completed(encoder["kind"], encoder.get(word, {}))
    return words


SENSES: dict[str, Sense] = {
    "vision_clip": Sense(
        "image",
        "openai/clip-vit-large-patch14-336",
        "multi_token",
        BIN,
        encoders.clip,
        encoders.clip_table,
        encoders.clip_files,
    ),
    "audio_whisper": Sense(
        "speech",
        "openai/whisper-small",
        "multi_token_speech",
        SAFE,
        encoders.whisper,
        encoders.whisper_table,
        encoders.whisper_files,
    ),
    "audio_clap": Sense(
        "sound",
        "laion/clap-htsat-fused",
        "multi_token_sound",
        BIN,
        encoders.clap,
        encoders.clap_table,
        encoders.clap_files,
    ),
    "video_xclip": Sense(
        "video",
        "microsoft/xclip-base-patch32",
        "multi_token_video",
        BIN,
        encoders.xclip,
        encoders.xclip_table,
        encoders.xclip_files,
    ),
    "imagebind": Sense(
        "imagebind",
        "imagebind",
        "multi_token_imagebind",
        (),
        imagebind.sized,
        imagebind.table,
        imagebind.files,
        imagebind.carried,
    ),
    "document_gte": Sense(
        "document",
        "thenlper/gte-large",
        "multi_token_document",
        SAFE,
        encoders.bert,
        encoders.bert_table,
        encoders.bert_files,
        encoders.bert_carried,
    ),
}
"""By the reference's names."""

BUILDERS: dict[str, tuple[str, ...]] = {
    "vision_clip": ("vision_clip",),
    "vision_clip_pool": ("vision_clip",),
    "audio_whisper": ("audio_whisper",),
    "audio_clap": ("audio_clap",),
    "video_xclip": ("video_xclip",),
    "imagebind": ("imagebind",),
    "document_gte": ("document_gte",),
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
