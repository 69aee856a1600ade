"""multi_token (sshh12/multi_token): LoRA adapters and projectors over a base language model.

Facts and quirks: golden/specs/multi_token.md. A folder holds neither the base model nor the encoders; they come as
parts, by hub id or local folder:

    llm                    the base language model and its tokenizer
    vision_clip, ...       the encoder of each modality, under the reference's name

and one word says what becomes of the adapter: `adapters=merge` works it into the base model, `keep` leaves
it beside the weights, `none` opens the projectors over the bare base model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from omnimix.families.multi_token import names as tables, write
from omnimix.families.multi_token.names import Lora, Projector
from omnimix.families.multi_token.recipe import (
    Words,
    adapter_of,
    recipe as recipe_of,
    tokenizer_of,
    words_of as inverse,
)
from omnimix.families.multi_token.senses import BUILDERS, SENSES, sense, words_of

if TYPE_CHECKING:
    from omnimix.compose.model import MultimodalLM
    from omnimix.compose.processor import Processor

PROJECTORS = "non_lora_trainables.bin"
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
WORDS = ("adapters", "pad_non_square_images", "vision_heads", "audio_heads", "text_heads")
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


class MultiToken(Family[Output, Words]):
    """Folders that the training of multi_token writes, released or one's own."""

    name = "multi_token"
    title = "multi_token"
    part_names = ("llm", *SENSES)
    known_words = WORDS
    layouts = ("an output folder (config.json with modalities, non_lora_trainables.bin)",)

    def recognise(self, path: Path) -> Output | None:
        if not path.is_dir():
            return None
        words = _config(path)
        if words is not None and "modalities" in words:
            ours = "modality_builder" in words or str(words.get("model_type")).endswith("-lmm")
            if not ours:
                return None
            adapter = read_json(path / "adapter_config.json")
            files = _files(path)
            return Output(self.name, "output folder", path, files, config=words, adapter=adapter)
        if words is None and (path / PROJECTORS).is_file():
            raise CheckpointError(
                f"config.json is missing: {looks_like(path)}",
                where=str(path),
                hint="it names the modalities; copy the whole folder",
            )
        return None

    def part_of(self, layout: Output, beside: Beside) -> str | None:
        # Several senses may share a hub id; the folder's modalities say which is meant.
        listed = modalities(layout.config)
        hubs = {"llm": _base_id(layout)} | {n: SENSES[n].hub for n in listed if n in SENSES}
        return next((name for name, hub in hubs.items() if hub == beside.name), None)

    def open(self, layout: Output, parts: Parts) -> Release:
        with placed(str(layout.root)):
            return self._open(layout, parts)

    def _open(self, layout: Output, parts: Parts) -> Release:
        way = _way(parts)
        senses = {
            name: sense(name, "config.json: modalities") for name in modalities(layout.config)
        }
        prefix, projectors = _projectors(layout, tuple(senses))
        lora = _lora(layout) if way != "none" else None
        llm = places.folder(parts.places.get("llm", _base_id(layout)), "llm", _LLM_FILES)
        spots = {name: known.spot(parts.places.get(name), name) for name, known in senses.items()}
        told = {
            name: words_of(known, projectors[name], spots[name], parts.words)
            for name, known in senses.items()
        }
        kept = adapter_of(lora) if lora is not None and way == "keep" else None
        recipe = self.recipe(Words(layout.root.name, layout.config, tokenizer_of(llm), kept, told))
        return Release(
            replace(layout, kind=_kind(lora, way)),
            recipe,
            llm,
            tuple(self._weights(layout, recipe, lora, llm, spots, prefix)),
            _notes(lora, way),
            {
                file: place
                for name, known in senses.items()
                for file, place in known.carried(told[name], spots[name]).items()
            },
        )

    def _weights(
        self,
        layout: Output,
        recipe: Recipe,
        lora: Lora | None,
        llm: Path,
        spots: Mapping[str, Path],
        prefix: str,
    ) -> Iterator[Weights]:
        """The sources of weights, each with its keys."""
        table = self.names(recipe)
        files = places.weight_files(llm, "language model")
        if lora is None:
            yield Weights("llm", files, table["llm"])
        elif recipe.adapters:
            yield Weights("llm and adapter", (*files, lora.file), table["llm"])
        else:
            merged = tables.merged_table(lora.scale, lora.targets)
            yield Weights("llm and adapter", (*files, lora.file), merged, one_by_one=True)
        ours = {name: SENSES[name].name for name in spots}
        own = tables.projector_table(prefix, ours)
        yield Weights("projectors", (layout.root / PROJECTORS,), own)
        for name, place in spots.items():
            yield Weights(name, places.weight_files(place, name), table[name])

    def recipe(self, words: Words) -> Recipe:
        return recipe_of(words)

    def words_of(self, recipe: Recipe) -> Words:
        return inverse(recipe)

    def names(self, recipe: Recipe) -> dict[str, RenameTable]:
        theirs = {known.name: name for name, known in SENSES.items()}
        ours = {theirs[name]: name for name in recipe.modalities}
        llm = tables.base_table()
        if recipe.adapters:
            llm = tables.kept_table(recipe.adapters[0].target_modules or ())
        return {
            "projectors": tables.projector_table(tables.PREFIXES[0], ours),
            "llm": llm,
            **{
                name: SENSES[name].table(
                    f"{own}.branches.0.encoders.0.", recipe.modalities[own].dump()
                )
                for name, own in ours.items()
            },
        }

    def put(
        self, words: Words, model: MultimodalLM, processor: Processor, out: Path, **options: Any
    ) -> list[Path]:
        return write.put(self, words, model, processor, out)


_LLM_FILES = (*places.CONFIGS, *places.WEIGHTS)


def _kind(lora: Lora | None, way: str) -> str:
    if lora is None:
        return "projectors alone"
    return f"adapter {'kept' if way == 'keep' else 'merged'}"


def _notes(lora: Lora | None, way: str) -> tuple[str, ...]:
    if lora is not None:
        return ()
    if way == "none":
        return ("the base language model stands without the adapter",)
    return ("a run without LoRA: the language model is the base one",)


def _way(parts: Parts) -> str:
    """What becomes of the adapter.

    Raises:
        CheckpointError: a way that nobody knows.
    """
    way = str(parts.words.get("adapters", "merge"))
    if way not in WAYS:
        raise CheckpointError(f"adapters is {way!r}", hint=f"it is one of {', '.join(WAYS)}")
    return way


def modalities(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """The reference's names of a model's modalities.

    A builder of the reference's table must make what the list says; any other builder is the trainer's own,
    and the list alone counts.

    Raises:
        CheckpointError: no list, or one that contradicts the builder.
    """
    found = facts.get("modalities")
    where = "config.json: modalities"
    if not isinstance(found, list) or not found or not all(isinstance(n, str) for n in found):
        raise CheckpointError("there is no list of modalities", where=where)
    built = BUILDERS.get(str(facts.get("modality_builder")))
    if built is not None and tuple(found) != built:
        raise CheckpointError(
            f"the builder {facts['modality_builder']!r} makes {', '.join(built)}, the list says "
            f"{', '.join(found)}",
            where=where,
            hint="config.json must be the one that the run wrote",
        )
    if len(set(found)) < len(found):
        raise CheckpointError("a modality stands twice", where=where)
    return tuple(found)


def _projectors(layout: Output, names: tuple[str, ...]) -> tuple[str, dict[str, Projector]]:
    """The prefix of the projectors' keys and what each says.

    Raises:
        CheckpointError: one is missing, or there are others.
    """
    stored = layout.opened.tensors(layout.root / PROJECTORS)
    prefix = tables.prefix_of(stored)
    found = tables.projectors({key: tuple(tensor.shape) for key, tensor in stored.items()})
    missing, more = [n for n in names if n not in found], [n for n in found if n not in names]
    if missing or more:
        said = [f"no projector of {', '.join(missing)}"] if missing else []
        said += (
            [f"a projector of {', '.join(more)}, which config.json does not list"] if more else []
        )
        raise CheckpointError(
            "; ".join(said),
            where=PROJECTORS,
            hint="config.json and the projectors must come from one run",
        )
    assert prefix is not None
    return prefix, found


def _lora(layout: Output) -> Lora | None:
    """The adapter in a folder; None for a run without LoRA.

    Raises:
        CheckpointError: half of it is missing.
    """
    root = layout.root
    words = layout.adapter
    file = next((root / name for name in ADAPTERS if (root / name).is_file()), None)
    if words is None and file is None:
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
    if words is None:
        raise CheckpointError(
            f"{file.name} stands without adapter_config.json, which says its scale",
            hint="copy the whole folder",
        )
    stored = layout.opened.tensors(file)
    sizes = {key: tuple(tensor.shape) for key, tensor in stored.items()}
    rank = tables.rank_of(sizes)
    return Lora(
        file,
        tables.adapted(sizes),
        rank,
        tables.scale_of(words, rank),
        float(words.get("lora_dropout") or 0.0),
    )


def _base_id(layout: Output) -> str:
    """The base model as the folder names it."""
    named = (layout.adapter or {}).get("base_model_name_or_path")
    return str(named or layout.config.get("_name_or_path") or BASE)


def _config(root: Path) -> dict[str, Any] | None:
    """The folder's config.json; a run that was stopped has it in its newest checkpoint alone."""
    found = read_json(root / "config.json")
    if found is not None or (root / "config.json").is_file():
        return found
    steps = [
        (int(path.name.rpartition("-")[2]), path)
        for path in root.glob("checkpoint-*")
        if path.name.rpartition("-")[2].isdigit()
    ]
    newest = max(steps, default=None)
    return read_json(newest[1] / "config.json") if newest else None


def _files(root: Path) -> tuple[Path, ...]:
    return tuple(root / name for name in (PROJECTORS, *ADAPTERS) if (root / name).is_file())
