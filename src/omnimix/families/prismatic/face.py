"""Prismatic as its users know it: `from omnimix.families.prismatic import load` in place of their import.

A model of this face holds an `Assistant`; whatever the face does not know, `vlm.assistant` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnimix import hub
from omnimix.calls import checked_call
from omnimix.checkpoints import releases
from omnimix.errors import CheckpointError, SampleError
from omnimix.families.prismatic.names import IMAGE
from omnimix.families.prismatic.prompted import Prompted
from omnimix.families.prismatic.prompting import PromptBuilder
from omnimix.families.prismatic.recipe import VISION, vision_of, words_of
from omnimix.generate.assistant import Assistant, load as load_assistant
from omnimix.language.tokenizer import Tokenizer
from omnimix.media.image import ImageOpener
from omnimix.media.tiles import Tiles
from omnimix.types import Media

FAMILY = "prismatic"
_RESIZES = {
    "letterbox": "Letterbox",
    "resize-naive": "Naive Resize",
    "resize-crop": "Resize Crop",
}
_DATA = {
    "llava-v15": ["LLaVa v1.5 Instruct"],
    "llava-multimodal": ["LLaVa v1.5 Multimodal-Only"],
    "llava-lvis4v": ["LLaVa v1.5 Instruct", "LVIS-Instruct-4V"],
    "llava-lrv": ["LLaVa v1.5 Instruct", "LRV-Instruct"],
    "llava-lvis4v-lrv": ["LLaVa v1.5 Instruct", "LVIS-Instruct-4V", "LRV-Instruct"],
}


def available_models() -> list[str]:
    """Ids of the released models."""
    return [release.id for release in releases.releases(FAMILY)]


def available_model_names() -> list[tuple[str, list[str]]]:
    """Each id with the names it is also found by."""
    return [(release.id, list(release.names)) for release in releases.releases(FAMILY)]


def get_model_description(model_id_or_name: str) -> dict[str, Any]:
    """What a released model is made of, in the words of the published registry.

    Raises:
        RegistryError: unknown, with the nearest known one.
    """
    release = releases.find(model_id_or_name)
    return {
        "name": release.title,
        "optimization_procedure": release.procedure,
        "visual_representation": f"{release.encoder.title} @ {release.encoder.size}px",
        "image_processing": _RESIZES.get(release.resize or ""),
        "language_model": release.language.title,
        "datasets": _DATA.get(release.data or ""),
        "train_epochs": release.epochs,
    }


@checked_call
def load(
    model_id_or_path: str | Path,
    hf_token: str | Path | None = None,
    cache_dir: str | Path | None = None,
    load_for_training: bool = False,
    **words: Any,
) -> PrismaticVLM:
    """A released model by its id, or a run folder; on the CPU in float32 until `to` moves it.

    Args:
        hf_token: of the hub, or a file that holds it.
        cache_dir: where downloads are kept, in place of the hub's own cache.
        load_for_training: whether gradients reach the weights.
        words: `parts`, and facts about stand-ins, as `omnimix.load` takes them.

    Raises:
        RegistryError: an unknown id, with the nearest known one.
        CheckpointError: files that cannot be had or do not fit, or a word that nobody knows.
    """
    with hub.asked(_token(hf_token), cache_dir):
        assistant = load_assistant(model_id_or_path, device="cpu", **words)
    assistant.model.requires_grad_(load_for_training)
    return PrismaticVLM(assistant)


def _token(given: str | Path | None) -> str | None:
    """A token of the hub, or what the file holds that is named.

    Raises:
        CheckpointError: a file that is not there, or holds none.
    """
    if given is None:
        return None
    path = Path(given)
    named = isinstance(given, Path) or path.is_file()
    text = path.read_text(encoding="utf-8") if path.is_file() else str(given)
    if (named and not path.is_file()) or not text.strip() or re.search(r"[\s/.\\]", text.strip()):
        raise CheckpointError(
            "hf_token is no token, and no file that holds one",
            where=str(path) if named else "hf_token",
            hint="give the token itself (hf_...) or the path of a file with it",
        )
    return text.strip()


@dataclass(frozen=True)
class VisionBackbone:
    """The encoders of a model.

    Attributes:
        identifier: the id of the published tables.
        default_image_resolution: channels and sides of a prepared picture.
        image_transform: a picture to the numbers that the encoders see, a table by encoder for a pair.
        num_patches: places that a picture takes.
        embed_dim: width of its features.
        encoders: the modules.
    """

    identifier: str
    default_image_resolution: tuple[int, int, int]
    image_transform: Callable[[Any], Tensor | dict[str, Tensor]]
    num_patches: int
    embed_dim: int
    encoders: Any

    def get_image_transform(self) -> Callable[[Any], Tensor | dict[str, Tensor]]:
        """The same as the attribute."""
        return self.image_transform


@dataclass(frozen=True)
class LLMBackbone:
    """The language model of a model.

    Attributes:
        identifier: the id of the published tables.
        llm: the model of transformers.
        tokenizer: its tokenizer, the pad token added.
        llm_max_length: most text tokens of a sequence.
        prompt_builder_fn: makes a prompt builder, given a system text or nothing.
    """

    identifier: str
    llm: Any
    tokenizer: Tokenizer
    llm_max_length: int
    prompt_builder_fn: Callable[..., PromptBuilder]

    @property
    def pad_token_id(self) -> int:
        """Of the token that fills rows."""
        return self.tokenizer.pad

    @property
    def embed_dim(self) -> int:
        """Width of the embeddings."""
        return int(self.llm.config.hidden_size)

    def get_tokenizer(self) -> Tokenizer:
        """The same as the attribute."""
        return self.tokenizer


class PrismaticVLM(Prompted):
    """A model behind the face of `prismatic.models.vlms.PrismaticVLM`.

    Args:
        assistant: what answers.

    Attributes:
        model_id, vision_backbone, llm_backbone: as there.
    """

    def __init__(self, assistant: Assistant) -> None:
        super().__init__(assistant)
        model, recipe = assistant.model, self.processor.recipe
        patches = model.tokens_per_tile["image"]
        said = words_of(recipe, patches)
        branch = model.get_submodule(IMAGE)
        self.model_id = recipe.name
        self.vision_backbone = VisionBackbone(
            said.vision_backbone_id,
            (3, said.size, said.size),
            self._prepared,
            patches,
            int(branch.width),
            branch.encoders,
        )
        self.llm_backbone = LLMBackbone(
            said.llm_backbone_id,
            model.language,
            self.processor.weave.tokenizer,
            said.llm_max_length,
            self.get_prompt_builder,
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """The language model's tokenizer."""
        return self.processor.weave.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.assistant.device

    @checked_call
    def to(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> PrismaticVLM:
        """Move the model, change its floating type, or both; returns the model itself."""
        self.assistant.to(device, dtype)
        return self

    def eval(self) -> PrismaticVLM:
        """The model itself, which answers without dropout anyway."""
        self.assistant.model.eval()
        return self

    @checked_call
    def get_prompt_builder(self, system_prompt: str | None = None) -> PromptBuilder:
        """Collects turns and writes them in the model's own style."""
        return self.prompt_builder(system_prompt)

    def _prepared(self, image: Any) -> Tensor | dict[str, Tensor]:
        """A picture as each encoder sees it."""
        recipe = self.processor.recipe
        parts = VISION[vision_of(recipe)][1]
        done: dict[str, Tensor] = {}
        for part, encoder in zip(parts, recipe.modalities["image"].encoders(), strict=True):
            tiles = Tiles.of(ImageOpener().open(_media(image)))
            for step in encoder.steps:
                tiles = step(tiles)
            done[part] = tiles.tensor()[0]
        return done["vision"] if list(done) == ["vision"] else done


def _media(image: Any) -> Media:
    if isinstance(image, Media):
        return image
    if image is None:
        raise SampleError("there is no picture to prepare", hint="give a path or a PIL image")
    return Media.image(str(image) if isinstance(image, Path) else image)
