"""multi_token (sshh12/multi_token): LoRA adapters and projectors over a base language model.

Facts and quirks: golden/specs/multi_token.md. A folder holds neither the base model nor the encoders; they come as
parts, by hub id or local folder:

    llm                    the base language model and its tokenizer
    vision_clip, ...       the encoder of each modality, under the reference's name

and one word says what becomes of the adapter: `adapters=merge` works it into the base model, `keep` leaves
it beside the weights, `none` opens the projectors over the bare base model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from omnimix.compose.recipe import Recipe
from omnimix.errors import CheckpointError, placed
from omnimix.families.multi_token import names as tables, recipe as inwords, write
from omnimix.families.multi_token.names import Lora, Projector
from omnimix.families.multi_token.recipe import Words
from omnimix.families.multi_token.senses import BUILDERS, SENSES, THEIRS, sense

if TYPE_CHECKING:
    from omnimix.compose.model import MultimodalLM
    from omnimix.compose.processor import Processor

PROJECTORS = "non_lora_trainables.bin"
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
WAYS = ("merge", "keep", "none")
BASE = "mistralai/Mistral-7B-Instruct-v0.1"


@dataclass(frozen=True, kw_only=True)
class Output(Layout):
    """An output folder.

    Attributes:
        config: its config.json.
        adapter: its adapter_config.json; None where there is none.
    """

    config: Mapping[str, Any]
    adapter: Mapping[str, Any] | None

    @property
    def base(self) -> str:
        """The base model as the folder names it."""
        named = (self.adapter or {}).get("base_model_name_or_path")
        return str(named or self.config.get("_name_or_path") or BASE)


class MultiToken(Family[Output, Words]):
    """Folders that the training of multi_token writes, released or one's own."""

    name = "multi_token"
    title = "multi_token"
    part_names = ("llm", *SENSES)
    known_words = ("adapters", "pad_non_square_images", "vision_heads", "audio_heads", "text_heads")
    layouts = ("an output folder (config.json with modalities, non_lora_trainables.bin)",)

    def recognise(self, path: Path) -> Output | None:
        if not path.is_dir():
            return None
        config = _config(path)
        if config is None and (path / PROJECTORS).is_file():
            raise CheckpointError(
                f"config.json is missing: {looks_like(path)}",
                where=str(path),
                hint="it names the modalities; copy the whole folder",
            )
        if config is None or "modalities" not in config:
            return None
        if "modality_builder" not in config and not str(config.get("model_type")).endswith("-lmm"):
            return None
        adapter = read_json(path / "adapter_config.json")
        files = tuple(file for name in (PROJECTORS, *ADAPTERS) if (file := path / name).is_file())
        return Output(self.name, "output folder", path, files, config=config, adapter=adapter)

    def part_of(self, layout: Output, beside: Beside) -> str | None:
        # Several senses may share a hub id; the folder's modalities say which is meant.
        listed = modalities(layout.config)
        hubs = {"llm": layout.base} | {n: SENSES[n].hub for n in listed if n in SENSES}
        return next((name for name, hub in hubs.items() if hub == beside.name), None)

    def open(self, layout: Output, parts: Parts) -> Release:
        with placed(str(layout.root)):
            return self._open(layout, parts)

    def _open(self, layout: Output, parts: Parts) -> Release:
        way = str(parts.words.get("adapters", "merge"))
        if way not in WAYS:
            raise CheckpointError(f"adapters is {way!r}", hint=f"it is one of {', '.join(WAYS)}")
        listed = modalities(layout.config)
        senses = {name: sense(name, "config.json: modalities") for name in listed}
        projectors = _projectors(layout, listed)
        lora = None if way == "none" else _lora(layout)
        llm_files = (*places.CONFIGS, *places.WEIGHTS)
        llm = places.folder(parts.places.get("llm", layout.base), "llm", llm_files)
        spots, told, carried = {"llm": llm}, {}, dict[str, Path]()
        for name, known in senses.items():
            spots[name] = place = known.spot(parts.places.get(name), name)
            told[name] = known.words(projectors[name], place, parts.words)
            carried |= known.carried(told[name], place)
        kept = lora.words if lora is not None and way == "keep" else None
        tokenizer = inwords.tokenizer_of(llm)
        recipe = self.recipe(Words(layout.root.name, layout.config, tokenizer, kept, told))
        ours = {name: known.name for name, known in senses.items()}
        own = tables.projector_table(projectors[listed[0]].prefix, ours)
        sources = [Weights("projectors", (layout.root / PROJECTORS,), own)]
        named = self.names(recipe)
        for name, place in spots.items():
            files = places.weight_files(place, "language model" if name == "llm" else name)
            source = Weights(name, files, named[name])
            if name == "llm" and lora is not None:
                source = replace(source, files=(*files, lora.file))
                if not kept:
                    source = replace(source, table=lora.merged(), one_by_one=True)
            sources.append(source)
        kind, *notes = _KINDS[way if lora is not None or way == "none" else "without"]
        layout = replace(layout, kind=kind)
        return Release(layout, recipe, llm, tuple(sources), tuple(notes), carried)

    def recipe(self, words: Words) -> Recipe:
        return inwords.recipe(words)

    def words_of(self, recipe: Recipe) -> Words:
        return inwords.words_of(recipe)

    def names(self, recipe: Recipe) -> dict[str, RenameTable]:
        ours = {THEIRS[name]: name for name in recipe.modalities}
        targets = recipe.adapters[0].target_modules or () if recipe.adapters else None
        return {
            "projectors": tables.projector_table(tables.PREFIXES[0], ours),
            "llm": tables.base_table() if targets is None else tables.kept_table(targets),
            **{
                theirs: SENSES[theirs].table(
                    f"{name}.branches.0.encoders.0.", recipe.modalities[name].dump()
                )
                for theirs, name in ours.items()
            },
        }

    def put(
        self, words: Words, model: MultimodalLM, processor: Processor, out: Path, **options: Any
    ) -> list[Path]:
        return write.put(self, words, model, processor, out)


_KINDS: dict[str, tuple[str, ...]] = {
    "merge": ("adapter merged",),
    "keep": ("adapter kept",),
    "none": ("projectors alone", "the base language model stands without the adapter"),
    "without": ("projectors alone", "a run without LoRA: the language model is the base one"),
}
"""What became of the adapter: the layout's kind, and what a user should know."""


def modalities(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The reference's names of a model's modalities.

    A builder of the reference's table must make what the list says; any other builder is the trainer's own,
    and the list alone counts.

    Raises:
        CheckpointError: no list, or one that contradicts the builder.
    """
    names = config.get("modalities")
    where = "config.json: modalities"
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise CheckpointError("there is no list of modalities", where=where)
    built = BUILDERS.get(str(config.get("modality_builder")))
    if built is not None and tuple(names) != built:
        raise CheckpointError(
            f"the builder {config['modality_builder']!r} makes {', '.join(built)}, the list says "
            f"{', '.join(names)}",
            where=where,
            hint="config.json must be the one that the run wrote",
        )
    if len(set(names)) < len(names):
        raise CheckpointError("a modality stands twice", where=where)
    return tuple(names)


def _projectors(layout: Output, names: tuple[str, ...]) -> dict[str, Projector]:
    """What each projector of a folder says.

    Raises:
        CheckpointError: one is missing, or there are others.
    """
    held = tables.projectors(layout.opened.sizes([layout.root / PROJECTORS]))
    missing, more = [n for n in names if n not in held], [n for n in held if n not in names]
    if missing or more:
        raise CheckpointError(
            f"no projector of {', '.join(missing)}"
            if missing
            else f"a projector of {', '.join(more)}, which config.json does not list",
            where=PROJECTORS,
            hint="config.json and the projectors must come from one run",
        )
    return held


def _lora(layout: Output) -> Lora | None:
    """The adapter in a folder; None for a run without LoRA.

    Raises:
        CheckpointError: half of it is missing.
    """
    file = next((file for file in layout.files if file.name in ADAPTERS), None)
    if file is None and layout.adapter is None:
        return None
    if file is None:
        raise CheckpointError(
            f"the adapter's weights are missing: there is adapter_config.json, but no "
            f"{' or '.join(reversed(ADAPTERS))}",
            hint=(
                "the hub has none for VisionCLIPPool-LLAVA, AudioWhisper and AudioCLAP; "
                "--word adapters=none opens the projectors over the base model, to train on from there"
            ),
        )
    if layout.adapter is None:
        raise CheckpointError(
            f"{file.name} stands without adapter_config.json, which says its scale",
            hint="copy the whole folder",
        )
    return tables.lora(file, layout.opened.sizes([file]), layout.adapter)


def _config(root: Path) -> dict[str, Any] | None:
    """The folder's config.json; a run that was stopped has it in its newest checkpoint alone."""
    config = read_json(root / "config.json")
    if config is not None:
        return config
    steps = [p for p in root.glob("checkpoint-*") if p.name.rpartition("-")[2].isdigit()]
    newest = max(steps, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return read_json(newest / "config.json") if newest else None
