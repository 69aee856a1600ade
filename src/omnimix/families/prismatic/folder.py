"""Prismatic VLMs (`prismatic-vlms`): run folders of its trainer, released or one's own.

What a run folder does not hold (vision weights, the language model's configuration and tokenizer, its
weights for an align run) comes as parts:

    vision        the single encoder's weights; for pairs `dino` and `siglip` or `clip`
    llm           configuration and tokenizer of the language model, weights only for align runs

and for stand-ins of another size than the released ones two words tell what no file does: `image_size`, and
`vision`, for each encoder's part the timm arguments that differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omnimix.checkpoints import parts as places
from omnimix.checkpoints.base import (
    Beside,
    Family,
    Layout,
    Parts,
    Release,
    Weights,
    looks_like,
    read_json,
)
from omnimix.checkpoints.tables import RenameTable
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.errors import CheckpointError, placed
from omnimix.families.prismatic import names, recipe as recipes, write
from omnimix.families.prismatic.names import CHECKPOINT, patch_of
from omnimix.families.prismatic.recipe import LLMS, VISION, Words
from omnimix.language.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class RunFolder(Layout):
    """A run folder.

    Attributes:
        section: the model section of its config.json.
        stage: of the training that wrote it.
    """

    section: Mapping[str, Any]
    stage: str


@dataclass(frozen=True)
class Brought:
    """What stands beside a run.

    Attributes:
        llm: folder of the language model.
        vision: files of each encoder by its part.
        patches: side of a patch of each encoder, as its files tell.
    """

    llm: Path
    vision: Mapping[str, tuple[Path, ...]]
    patches: Mapping[str, int]


class Prismatic(Family[RunFolder, Words]):
    """Run folders of `prismatic-vlms`: finetuned, align-only and full-finetune."""

    name = "prismatic"
    title = "Prismatic"
    layouts = ("a run folder (config.json with a model section, checkpoints/latest-checkpoint.pt)",)
    part_names = ("llm", *dict.fromkeys(part for _, parts in VISION.values() for part in parts))
    known_words = ("image_size", "vision")

    def untrained(self, encoder: str, language: str, connector: str, resize: str) -> dict[str, Any]:
        return recipes.untrained(encoder, language, connector, resize)

    def recognise(self, path: Path) -> RunFolder | None:
        root, chosen = path, None
        if path.is_file() and path.suffix == ".pt" and path.parent.name == "checkpoints":
            root, chosen = path.parent.parent, path
        said = (read_json(root / "config.json") or {}) if root.is_dir() else {}
        section = said.get("model")
        ids = {"vision_backbone_id", "llm_backbone_id", "arch_specifier"}
        if not isinstance(section, dict) or not ids & section.keys():
            return None
        recipes.check_section(section, f"{root / 'config.json'}: model")
        file = chosen or _newest(root / "checkpoints")
        if file is None:
            raise CheckpointError(
                f"no checkpoint in the run folder: {looks_like(root)}",
                where=str(root),
                hint="it holds checkpoints/latest-checkpoint.pt; copy the whole folder",
            )
        stage = str(said.get("stage", "finetune"))
        return RunFolder(self.name, "run folder", root, (file,), section=section, stage=stage)

    def part_of(self, layout: RunFolder, beside: Beside) -> str | None:
        """The language model by its type, a file of a timm ViT by what only its kind has."""
        if beside.config:
            ours = beside.config.get("model_type") == LLMS[layout.section["llm_backbone_id"]].kind
            return "llm" if ours else None
        if not beside.place.is_file():
            return None
        shapes = layout.opened.sizes([beside.place])
        if patch_of(shapes) is None:
            return None
        wanted = VISION[layout.section["vision_backbone_id"]][1]
        kind = "dino" if "reg_token" in shapes else "clip" if "cls_token" in shapes else "siglip"
        return "vision" if "vision" in wanted else kind if kind in wanted else None

    def open(self, layout: RunFolder, parts: Parts) -> Release:
        with placed(str(layout.root)):
            stored = layout.opened.tensors(*layout.files)
            release = self.start(layout, parts)
            own = Weights(CHECKPOINT, layout.files, self.names(release.recipe)[CHECKPOINT])
            base, *vision = release.weights
            kind, notes = "finetuned run", []
            if any(key.startswith("model.vision_backbone.") for key in stored):
                notes.append(
                    "the checkpoint brings trained encoders, which the reference ignores when it "
                    "loads; the stock ones are used as there"
                )
            weights = [own, *vision]
            if not any(key.startswith("model.llm_backbone.") for key in stored):
                kind = "align run"
                weights.append(replace(base, files=self._llm_files(layout, parts, release.folder)))
                notes.append(
                    "an align run holds the projector alone; the language model is the base one, with "
                    "new random rows for added tokens"
                )
            return replace(
                release,
                layout=replace(layout, kind=kind),
                weights=tuple(weights),
                notes=tuple(notes),
            )

    def start(self, layout: RunFolder, parts: Parts) -> Release:
        """The model before its training: base language model, stock encoders, no projector yet.

        `reading.load` takes the projector as `extra`. The base language model's files are looked for by
        `begun` alone, since a finetuned run goes without them.
        """
        brought = self._brought(layout, parts)
        words, tokenizer = _words(layout, parts.words, brought)
        recipe = self.recipe(words)
        tables = names.tables(recipe, brought.patches)
        vision = [Weights(part, files, tables[part]) for part, files in brought.vision.items()]
        base = Weights("llm", (), names.llm_table(recipe))
        return Release(layout, recipe, brought.llm, (base, *vision), tokenizer=tokenizer)

    def begun(self, layout: RunFolder, parts: Parts) -> Release:
        """The same with the base language model's weights."""
        release = self.start(layout, parts)
        base, *vision = release.weights
        base = replace(base, files=self._llm_files(layout, parts, release.folder))
        return replace(release, weights=(base, *vision))

    def recipe(self, words: Words) -> Recipe:
        return recipes.recipe(words)

    def names(self, recipe: Recipe) -> Mapping[str, RenameTable]:
        return names.tables(recipe)

    def words_of(self, recipe: Recipe) -> Words:
        if set(recipe.modalities) != {"image"}:
            has = ", ".join(recipe.modalities) or "none"
            raise self.refusal(recipe, f"it has the modalities {has}, not image alone")
        recipes.vision_of(recipe)
        encoder: Any = recipe.modalities["image"].branches[0].encoders[0]
        return recipes.words_of(recipe, (int(encoder.img_size) // names.patch(encoder)) ** 2)

    def put(
        self, words: Words, model: MultimodalLM, processor: Processor, out: Path, **options: Any
    ) -> list[Path]:
        recipe, state = processor.recipe, model.state_dict()
        keys: dict[str, Any] = {}
        for i, (source, table) in enumerate(self.names(recipe).items()):
            encoder = f"{names.IMAGE}.encoders."
            mine = (
                {n: t for n, t in state.items() if not n.startswith(encoder)}
                if source == CHECKPOINT
                else {n: t for n, t in state.items() if n.startswith(f"{encoder}{i - 1}.")}
            )
            keys[source] = self.foreign(table, mine, recipe)
        return write.folder(words, keys, processor, out)

    def _brought(self, layout: RunFolder, parts: Parts) -> Brought:
        """The parts where they lie, the language model's small files alone.

        Raises:
            CheckpointError: one that is neither there nor to be had.
        """
        section = layout.section
        hub = LLMS[section["llm_backbone_id"]].hub
        llm = places.folder(parts.places.get("llm", hub), "llm", places.CONFIGS)
        files: dict[str, tuple[Path, ...]] = {}
        patches: dict[str, int] = {}
        for part, timm in VISION[section["vision_backbone_id"]][1].items():
            place = places.folder(parts.places.get(part, f"timm/{timm}"), part, places.WEIGHTS)
            files[part] = places.weight_files(place, part)
            patch = patch_of(layout.opened.sizes(files[part]))
            if patch is None:
                raise CheckpointError(
                    f"the file of the part {part} holds no ViT of timm",
                    where=str(place),
                    hint=f"it is the state dict of {timm}",
                )
            patches[part] = patch
        return Brought(llm, files, patches)

    def _llm_files(self, layout: RunFolder, parts: Parts, llm: Path) -> tuple[Path, ...]:
        """The base language model's weights: beside its configuration, else fetched now."""
        if not list(llm.glob("*.safetensors")) and not llm.is_file():
            hub = LLMS[layout.section["llm_backbone_id"]].hub
            llm = places.folder(parts.places.get("llm", hub), "llm", places.WEIGHTS)
        return places.weight_files(llm, "language model")


def _words(
    layout: RunFolder, given: Mapping[str, Any], brought: Brought
) -> tuple[Words, Tokenizer]:
    """What a run and its parts say, and the tokenizer that was counted for it."""
    section = {"model_id": layout.root.name, "llm_max_length": 2048, **layout.section}
    known = LLMS[section["llm_backbone_id"]]
    # What the trainer's transformers took where the tokenizer's configuration is silent.
    asked = (read_json(brought.llm / "tokenizer_config.json") or {}).get(
        "clean_up_tokenization_spaces"
    )
    tidy = not known.own_begin if asked is None else bool(asked)
    tokenizer = recipes.tokenizer(known, tidy).load([brought.llm])
    size = given.get("image_size")
    side = int(size or VISION[section["vision_backbone_id"]][0])
    patch = next(iter(brought.patches.values()))
    words = Words(
        **{word: str(section[word]) for word in _TEXTS},
        llm_max_length=int(section["llm_max_length"]),
        llm=places.config(brought.llm, "language model"),
        tokens=tokenizer.size,
        tidy=tidy,
        patches=(side // patch) ** 2,
        image_size=None if size is None else side,
        vision=given.get("vision"),
    )
    return words, tokenizer


_TEXTS = (
    "model_id",
    "vision_backbone_id",
    "llm_backbone_id",
    "arch_specifier",
    "image_resize_strategy",
)


def _newest(folder: Path) -> Path | None:
    """`latest-checkpoint.pt`, else the file of the highest step."""
    latest = folder / "latest-checkpoint.pt"
    if latest.is_file():
        return latest
    steps = [
        (int(number[1]), path)
        for path in folder.glob("step-*.pt")
        if (number := re.match(r"step-(\d+)-", path.name))
    ]
    return max(steps)[1] if steps else None
