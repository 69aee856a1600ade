"""Parts that a checkpoint does not hold: hub ids and local folders in the hub's layout.

A part is named by a hub id (`timm/vit_so400m_patch14_siglip_384`), a folder, or a file of weights. Hub ids
go through `huggingface_hub`: resumable, cached, and never on the wire where `HF_HUB_OFFLINE` is set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnimix import hub
from omnimix.errors import CheckpointError
from omnimix.hub import looks_like, read_json

CONFIGS, WEIGHTS = hub.CONFIGS, hub.WEIGHTS

SUFFIXES = frozenset({".safetensors", ".pt", ".pth", ".bin"})
"""Of files of weights."""

ABOVE = 3
"""How many folders above a checkpoint are looked into for what belongs to it."""


@dataclass(frozen=True)
class Parts:
    """What a checkpoint does not hold and somebody else brings.

    Attributes:
        places: for a part's name (`llm`, `vision`, ...) a hub id, a local folder in the hub's layout, or a
            file of weights. Parts that are not named are looked up under the hub ids of the family.
        words: facts that no file tells, `image_size` for a stand-in of another size for instance.
    """

    places: Mapping[str, str | Path] = field(default_factory=dict)
    words: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Beside:
    """Something in a folder `backbones`.

    Attributes:
        place: a folder in the hub's layout, or a file of weights.
        name: below `backbones`; equal to a hub id where the folders are laid out so.
        config: its config.json.
    """

    place: Path
    name: str
    config: Mapping[str, Any]


def written(root: Path) -> Parts:
    """What the nearest parts.json at a checkpoint or above it says; nothing where there is none.

    Places stand relative to that file.

    Raises:
        CheckpointError: a file that says something else.
    """
    for folder in _around(root):
        words = read_json(folder / "parts.json")
        if words is None:
            continue
        brought, facts = words.get("places") or {}, words.get("words") or {}
        if (
            not isinstance(brought, dict)
            or not isinstance(facts, dict)
            or not (words.keys() & {"places", "words"})
        ):
            raise CheckpointError(
                "the file says neither places nor words of parts",
                where=str(folder / "parts.json"),
                hint='it is a table such as {"places": {"llm": "backbones/llm"}, "words": {}}',
            )
        return Parts({name: folder / str(place) for name, place in brought.items()}, facts)
    return Parts()


def beside(root: Path, part_of: Callable[[Beside], str | None]) -> dict[str, str | Path]:
    """The parts in folders `backbones` at a checkpoint or above it, the nearest first.

    Args:
        part_of: which part something is; None for what is no part of the checkpoint.
    """
    places: dict[str, str | Path] = {}
    for folder in _around(root):
        for one in _backbones(folder / "backbones"):
            name = part_of(one)
            if name is not None:
                places.setdefault(name, one.place)
    return places


def _around(root: Path) -> Iterator[Path]:
    """The folder of a checkpoint and those above it."""
    if root.is_dir():
        yield root
    yield from list(root.absolute().parents)[:ABOVE]


def _backbones(folder: Path) -> Iterator[Beside]:
    """Folders with files at most two levels down, and files of weights without a config.json."""
    if not folder.is_dir():
        return
    for path in sorted([*folder.glob("*"), *folder.glob("*/*")]):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            config = read_json(path / "config.json")
            if config is not None or any(inner.is_file() for inner in path.iterdir()):
                yield Beside(path, name, config or {})
        elif path.suffix in SUFFIXES and not (path.parent / "config.json").is_file():
            yield Beside(path, name, {})


def folder(place: str | Path, what: str, files: Sequence[str], revision: str | None = None) -> Path:
    """The local folder (or file) of a part.

    Args:
        place: a local path or a hub id.
        what: the part's name for messages.
        files: patterns of the files that are needed, where they have to be fetched.
        revision: branch, tag or commit on the hub.

    Raises:
        CheckpointError: neither there nor to be had.
    """
    path = Path(place)
    if path.exists():
        return path
    name = str(place)
    if not hub.is_id(name):
        raise CheckpointError(
            f"there is no {what} at {name!r}",
            hint=f"name a local folder or a hub id, for instance --part {what}=FOLDER",
        )
    return hub.fetched(
        name,
        what,
        files,
        f"give a local folder in the hub's layout: --part {what}=FOLDER",
        revision,
    )


def weight_files(place: Path, what: str) -> tuple[Path, ...]:
    """The files of weights at a place, shards in order.

    Raises:
        CheckpointError: none there, or an index that names files which are not.
    """
    if place.is_file():
        return (place,)
    index = read_json(place / "model.safetensors.index.json")
    if index is not None and isinstance(index.get("weight_map"), dict):
        names = sorted(set(index["weight_map"].values()))
        absent = [name for name in names if not (place / name).is_file()]
        if absent:
            raise CheckpointError(
                f"{len(absent)} of {len(names)} shards of the {what} are missing: {absent[0]}",
                where=str(place),
                hint="copy the whole folder again",
            )
        return tuple(place / name for name in names)
    if (place / "model.safetensors").is_file():  # other files beside it are no weights of a model
        return (place / "model.safetensors",)
    found = sorted(place.glob("*.safetensors")) or sorted(place.glob("*.pt"))
    found = found or sorted(place.glob("pytorch_model*.bin"))
    if not found:
        raise CheckpointError(
            f"no weights of the {what}: {looks_like(place)}",
            where=str(place),
            hint="a folder in the hub's layout holds model.safetensors",
        )
    return tuple(found)


def config(place: Path, what: str) -> dict[str, Any]:
    """The `config.json` of a part.

    Raises:
        CheckpointError: there is none.
    """
    found = read_json(place / "config.json") if place.is_dir() else None
    if found is None:
        raise CheckpointError(
            f"no config.json of the {what}: {looks_like(place)}",
            where=str(place),
            hint="name a folder in the hub's layout",
        )
    return found
