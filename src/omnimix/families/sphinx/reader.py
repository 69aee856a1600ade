"""SPHINX (LLaMA2-Accessory): folders of shards, released ones and one's own.

Facts, numbers and quirks: golden/specs/sphinx.md. Everything is found under the path; each find can be replaced:

    config        config.json or params.json
    tokenizer     tokenizer.model (or a folder with one)
    over          a further folder (or several in a list), laid over the first
    llama_type    in place of meta.json
    max_seq_len   most positions of a sequence; the file's own number is ignored, as by the reference
    clip_activation, clip_heads, dino_heads, vit_heads, qformer_heads, replicas: see `sphinx_recipe`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from omnimix.checkpoints.base import Family, Layout, Parts, Release, Weights, read_json
from omnimix.checkpoints.tables import RenameTable
from omnimix.compose.recipe import Recipe
from omnimix.errors import CheckpointError, placed
from omnimix.families.sphinx import (
    folder as sphinx_folder,
    marked as sphinx_v,
    recipe as sphinx_recipe,
)
from omnimix.families.sphinx.folder import Folder
from omnimix.families.sphinx.names import table
from omnimix.families.sphinx.recipe import ACTIVATIONS, CONTEXT, HEADS, TYPES, Facts
from omnimix.registry import did_you_mean

if TYPE_CHECKING:
    from omnimix.compose.model import MultimodalLM
    from omnimix.compose.processor import Processor

WORDS = ("llama_type", "max_seq_len", "clip_activation", "replicas", "over", *HEADS)
PLACES = ("config", "tokenizer")

MORE: dict[str, RenameTable] = {sphinx_v.REGION: sphinx_v.table()}
"""Tables of modalities beside the picture, by the modality's name in the recipe."""


@dataclass(frozen=True, kw_only=True)
class Shards(Layout):
    """A folder of shards.

    Attributes:
        folder: what lies in it.
    """

    folder: Folder


class SphinxFamily(Family[Shards, Facts]):
    """Released and trained SPHINX models."""

    name: ClassVar[str] = "sphinx"
    title: ClassVar[str] = "SPHINX"
    part_names: ClassVar[tuple[str, ...]] = (*PLACES, "over")
    known_words: ClassVar[tuple[str, ...]] = WORDS
    layouts: ClassVar[tuple[str, ...]] = (
        "a folder of shards (consolidated.NN-of-MM.model.pth, tokenizer.model, config.json, meta.json)",
    )
    options: ClassVar[tuple[str, ...]] = ("shards",)
    dtype: ClassVar[torch.dtype | None] = torch.bfloat16

    def recognise(self, path: Path) -> Shards | None:
        root = path
        if path.is_file() and any(names.fullmatch(path.name) for names in sphinx_folder.KINDS):
            root = path.parent
        if not root.is_dir():
            return None
        found = sphinx_folder.look(root)
        if found is None:
            return None
        return Shards(self.name, found.kind, root, found.files, folder=found)

    def laid(self, parts: Parts, over: Path) -> Parts:
        said = parts.words.get("over") or ()
        below = [said] if isinstance(said, str | Path) else list(said)
        return Parts(parts.places, {**parts.words, "over": [*below, over]})

    def open(self, layout: Shards, parts: Parts) -> Release:
        with placed(str(layout.root)):
            return self._open(layout, parts)

    def _open(self, layout: Shards, parts: Parts) -> Release:
        words = _known(parts)
        over = words.get("over") or ()
        roots = [layout.root, *map(Path, [over] if isinstance(over, str | Path) else over)]
        found = sphinx_folder.folders(roots)
        llama_type = _llama_type(found, words)
        config, args = _config(found, parts)
        tokenizer = _tokenizer(found, parts)
        stored, notes = sphinx_folder.whole(found, words.get("replicas") == "first")
        facts = Facts(
            llama_type=llama_type,
            args=args,
            sizes=stored.sizes,
            context=int(words.get("max_seq_len", CONTEXT)),
            heads={word: int(words[word]) for word in HEADS if word in words},
            activation=_activation(words, args),
            tokenizer={"kind": "sentencepiece", "path": tokenizer.name},
        )
        recipe = sphinx_recipe.build(facts, _name(layout), str(config))
        files = tuple(path for folder in found for path in folder.files)
        weights = Weights("shards", files, recipe_table(recipe), stored)
        return Release(layout, recipe, tokenizer.parent, (weights,), tuple(notes))

    def write(
        self, model: MultimodalLM, processor: Processor, out: Path, **options: Any
    ) -> list[Path]:
        from omnimix.families.sphinx import write as sphinx_write

        return sphinx_write.write(model, processor, out, int(options.get("shards", 1)))


def recipe_table(recipe: Recipe) -> RenameTable:
    """The rename table of a recipe of the family."""
    words = recipe.language.config
    more = [MORE[name] for name in recipe.modalities if name in MORE]
    heads = int(words["num_attention_heads"])
    return table(heads, int(words.get("num_key_value_heads") or heads), *more)


def _known(parts: Parts) -> dict[str, Any]:
    """All words; a folder to lay over may stand among the places too.

    Raises:
        CheckpointError: a number that is none.
    """
    said = {**parts.places, **parts.words}
    for word in ("max_seq_len", *HEADS):
        if word in said and not str(said[word]).isdigit():
            raise CheckpointError(f"{word} is {said[word]!r}", hint="give a whole number")
    return said


def _llama_type(found: Sequence[Folder], words: Mapping[str, Any]) -> str:
    """What is said, else what the last meta.json says.

    Raises:
        CheckpointError: neither, or a type that is not known.
    """
    kinds = ", ".join(f"{name} ({recipe})" for name, recipe in TYPES.items())
    meta = next((f.meta for f in reversed(found) if f.meta is not None), None)
    where, said = "llama_type", words.get("llama_type")
    if said is None and meta is not None:
        where, said = str(meta), (read_json(meta) or {}).get("llama_type")
    if said is None:
        what = "no meta.json says" if meta is None else "the meta.json does not say"
        raise CheckpointError(
            f"{what} which llama_type the model is",
            where=str(meta or found[-1].root),
            hint=f"name one with --word llama_type=llama_ens5; known are {kinds}",
        )
    if said not in TYPES:
        near = did_you_mean(str(said), TYPES)
        raise CheckpointError(
            f"unknown llama_type {said!r}",
            where=where,
            hint=near if near.startswith("did") else f"known are {kinds}",
        )
    return str(said)


def _config(found: Sequence[Folder], parts: Parts) -> tuple[Path, Mapping[str, Any]]:
    """The configuration that is named, else the last one found."""
    named = parts.places.get("config") or parts.words.get("config")
    path = Path(named) if named else next((f.config for f in reversed(found) if f.config), None)
    if path is None:
        raise CheckpointError(
            "there is neither a config.json nor a params.json",
            where=str(found[-1].root),
            hint="name one with --part config=FILE; Meta's params.json of the Llama will do",
        )
    args = read_json(path)
    if args is None:
        state = "is no table of words" if path.is_file() else "does not exist"
        raise CheckpointError(
            f"the configuration {state}", where=str(path), hint="name a config.json or params.json"
        )
    return path, args


def _tokenizer(found: Sequence[Folder], parts: Parts) -> Path:
    """The tokenizer that is named, else the last one found."""
    named = parts.places.get("tokenizer") or parts.words.get("tokenizer")
    path = (
        Path(named) if named else next((f.tokenizer for f in reversed(found) if f.tokenizer), None)
    )
    if path is None:
        raise CheckpointError(
            "there is no tokenizer.model",
            where=str(found[-1].root),
            hint="name Llama's with --part tokenizer=FILE",
        )
    file = path / "tokenizer.model" if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError(
            "there is no such tokenizer", where=str(path), hint="name a tokenizer.model"
        )
    return file.resolve()


def _activation(words: Mapping[str, Any], args: Mapping[str, Any]) -> str:
    """Of CLIP: exact GELU unless the encoders' own weights were asked for when it was built."""
    own = "quick_gelu" if args.get("load_pretrained_visual_encoder") else "gelu"
    said = str(words.get("clip_activation", own))
    if said not in ACTIVATIONS:
        raise CheckpointError(
            f"unknown clip_activation {said!r}", hint=did_you_mean(said, ACTIVATIONS)
        )
    return said


def _name(layout: Layout) -> str:
    root = layout.root.resolve()
    return root.parent.name if root.name == "checkpoint" else root.name
