"""SPHINX (LLaMA2-Accessory): folders of shards, released ones and one's own.

Facts, numbers and quirks: golden/specs/sphinx.md. Everything is found under the path; each find can be replaced:

    config        config.json or params.json
    tokenizer     tokenizer.model (or a folder with one)
    over          a further folder (or several in a list), laid over the first
    llama_type    where there is no meta.json
    max_seq_len   most positions of a sequence; the file's own number is ignored, as by the reference
    replicas      `first`: where shards differ in what each holds whole, the first one's are taken
    clip_activation, clip_heads, dino_heads, vit_heads, qformer_heads: see `omnimix.families.sphinx.recipe`
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from omnimix.checkpoints.base import Family, Parts, Release, Weights, read_json
from omnimix.checkpoints.tables import RenameTable
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.errors import CheckpointError, placed
from omnimix.families.sphinx import names, recipe as recipes, shards, write
from omnimix.families.sphinx.recipe import TYPES, Words
from omnimix.families.sphinx.shards import Shards
from omnimix.families.sphinx.sizes import HEADS
from omnimix.registry import did_you_mean

SOURCE = "shards"


class SphinxFamily(Family[Shards, Words]):
    """Released and trained SPHINX models."""

    name = "sphinx"
    title = "SPHINX"
    part_names = ("config", "tokenizer", "over")
    known_words = ("llama_type", "max_seq_len", "clip_activation", "replicas", "over", *HEADS)
    layouts = (
        "a folder of shards (consolidated.NN-of-MM.model.pth, tokenizer.model, config.json, meta.json)",
    )
    options = ("shards",)
    dtype = torch.bfloat16

    def recognise(self, path: Path) -> Shards | None:
        shard = path.is_file() and any(names.fullmatch(path.name) for names in shards.KINDS)
        return shards.look(path.parent if shard else path)

    def laid(self, parts: Parts, over: Path) -> Parts:
        return Parts(parts.places, {**parts.words, "over": [*_over(parts), over]})

    def open(self, layout: Shards, parts: Parts) -> Release:
        with placed(str(layout.root)):
            for word in ("max_seq_len", *HEADS):
                said = parts.words.get(word, 1)
                if not str(said).isdigit() or not int(said):
                    raise CheckpointError(f"{word} is {said!r}", hint="give a whole number above 0")
            folders = shards.stacked(layout, _over(parts))
            llama_type = _llama_type(folders, parts.words)
            config, args = _config(folders, parts)
            tokenizer = _tokenizer(folders, parts)
            stored, notes = shards.whole(folders, parts.words.get("replicas") == "first")
        with placed(str(config)):
            words = recipes.words(_name(layout), llama_type, args, stored.sizes, parts.words)
            recipe = self.recipe(words)
        files = tuple(file for folder in folders for file in folder.files)
        weights = Weights(SOURCE, files, self.names(recipe)[SOURCE], stored)
        return Release(layout, recipe, tokenizer.parent, (weights,), tuple(notes))

    def recipe(self, words: Words) -> Recipe:
        return recipes.recipe(words)

    def names(self, recipe: Recipe) -> Mapping[str, RenameTable]:
        return {SOURCE: names.table(recipe)}

    def words_of(self, recipe: Recipe) -> Words:
        return recipes.words_of(recipe)

    def put(
        self, words: Words, model: MultimodalLM, processor: Processor, out: Path, **options: Any
    ) -> list[Path]:
        table = self.names(processor.recipe)[SOURCE]
        tensors = self.foreign(table, model.state_dict(), processor.recipe)
        return write.folder(words, tensors, processor, out, int(options.get("shards", 1)))


def _over(parts: Parts) -> list[Path]:
    """The folders that are laid over the first."""
    said = parts.places.get("over") or parts.words.get("over") or ()
    return [Path(said)] if isinstance(said, str | Path) else [Path(one) for one in said]


def _last(found: Sequence[Shards], what: str) -> Iterator[Path]:
    """A small file of the folders, the uppermost first."""
    return filter(None, (getattr(folder, what) for folder in reversed(found)))


def _llama_type(found: Sequence[Shards], words: Mapping[str, Any]) -> str:
    """What the last meta.json says, or what is said where there is none.

    Raises:
        CheckpointError: neither says, a type that nobody knows, or the two contradict each other.
    """
    kinds = ", ".join(f"{name} ({recipe})" for name, recipe in TYPES.items())
    meta = next(_last(found, "meta"), None)
    where, said = "llama_type", words.get("llama_type")
    stored = None if meta is None else (read_json(meta) or {}).get("llama_type")
    if said is None and stored is not None:
        where, said = str(meta), stored
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
    if stored is not None and said != stored:
        raise CheckpointError(
            f"llama_type {said!r} is asked for, and the folder says {stored!r}",
            where=str(meta),
            hint="leave llama_type out",
        )
    return str(said)


def stated_type(folder: str | Path) -> str | None:
    """The llama_type that a local folder's meta.json states, or None."""
    found = shards.look(Path(folder))
    if found is None or found.meta is None:
        return None
    return str((read_json(found.meta) or {}).get("llama_type"))


def _config(found: Sequence[Shards], parts: Parts) -> tuple[Path, Mapping[str, Any]]:
    """The configuration that is named, else the last one found."""
    path = Path(parts.places.get("config") or next(_last(found, "config"), ""))
    if path == Path():
        raise CheckpointError(
            "there is neither a config.json nor a params.json",
            where=str(found[-1].root),
            hint="name one with --part config=FILE; Meta's params.json of the Llama will do",
        )
    args = read_json(path)
    if args is None:
        raise CheckpointError(
            "the configuration does not exist",
            where=str(path),
            hint="name a config.json or params.json",
        )
    return path, args


def _tokenizer(found: Sequence[Shards], parts: Parts) -> Path:
    """The tokenizer that is named, else the last one found."""
    path = Path(parts.places.get("tokenizer") or next(_last(found, "tokenizer"), ""))
    if path == Path():
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


def _name(layout: Shards) -> str:
    root = layout.root.resolve()
    return root.parent.name if root.name == "checkpoint" else root.name
