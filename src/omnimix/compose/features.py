"""What frozen encoders gave, kept: an item that was encoded before is neither opened nor encoded again.

A worker asks by the item's content; what is there is read from a mapped file in place of pixels, and the modality goes
on behind its encoders. What is not there is encoded as always, and written. Files are whole or absent, so that any
number of workers, processes and runs share a folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from omnimix import cache
from omnimix.compose.item_batch import ItemBatch
from omnimix.compose.modality import Modality, ModalitySpec
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.sequence import Item
from omnimix.config import Spec, mapped
from omnimix.errors import OmnimixError
from omnimix.media.files import found, looking_in
from omnimix.media.opening import MediaOpener, is_address
from omnimix.media.tiles import Frame, Step
from omnimix.types import Media
from omnimix.versions import version

KNOWN = 1 << 20
"""Files whose content a process remembers by size and time of change."""

PREPARING = (
    "omnimix", "numpy", "pillow", "torchvision", "transformers", "timm", "av", "soundfile", "soxr", "pypdfium2",
)  # fmt: skip
"""Packages by whose versions an item may be prepared or encoded another way."""

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class FeatureCacheSpec(Spec):
    """Where features of frozen encoders are kept.

    Attributes:
        folder: default that of omnimix's cache (`OMNIMIX_CACHE`, else `~/.cache/omnimix`), `features` in it.
        max_size: most bytes of the folder (`200GB`); what comes when it is full is encoded and not kept.
        modalities: whose; default all that have items of their own.
    """

    folder: str | None = None
    max_size: str = Field(default="50GB", pattern=r"^\d+(\.\d+)?(KB|MB|GB|TB)$")
    modalities: tuple[str, ...] | None = None

    def bytes(self) -> int:
        """The size as a number."""
        return int(float(self.max_size[:-2]) * _UNITS[self.max_size[-2:]])


class FeatureCache:
    """Features by the content of items; crosses into workers as a few paths.

    Args:
        prints: for each modality what its workers do to an item, as a digest.
        folders: for each modality where features of its very encoders lie; none where keys alone are asked for.
        room: bytes that may still be written.
        tell: hears that nothing more is kept.
    """

    def __init__(
        self,
        prints: Mapping[str, str],
        folders: Mapping[str, Path] | None = None,
        room: int = 0,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.prints = dict(prints)
        self.folders = dict(folders or {})
        self.room = room
        self.tell = tell
        self.known: dict[tuple[str, int, int], bytes] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "tell": None, "known": {}}

    def key(self, name: str, media: Media) -> str | None:
        """What an item is kept under; None for one whose content has no bytes to go by."""
        if name not in self.prints:
            return None
        content = self._content(media)
        return None if content is None else cache.digest(self.prints[name], media.kind, content)

    def _content(self, media: Media) -> bytes | None:
        data = media.data
        if isinstance(data, str | Path) and not (media.kind == "document" and data is str(data)):
            try:
                if is_address(data) or not Path(data).is_file():
                    return None
                stamp = cache.stamp(Path(data))
                if stamp not in self.known:
                    if len(self.known) >= KNOWN:
                        self.known.clear()
                    with Path(data).open("rb") as file:
                        self.known[stamp] = hashlib.file_digest(file, "blake2b").digest()
                return self.known[stamp]
            except (OSError, ValueError):
                return None  # opening it says what is wrong
        return _hashed(data)

    def find(self, name: str, key: str) -> Item | None:
        """The item with its features in place of what its encoders look at; the places it takes are left open."""
        if name not in self.folders:
            return None
        try:
            with safe_open(self._file(name, key), "pt") as file:
                about = json.loads(file.metadata()["about"])
                inputs = tuple(file.get_tensor(str(i)) for i in range(about["encoders"]))
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):
            return None  # not there; a damaged one is written again
        size, grid, tile = (tuple(about[word]) for word in ("size", "grid", "tile"))
        frame = Frame(*about["frame"])
        return Item(inputs, 0, size, frame, grid, key=key, encoded=True, tile=tile)

    def put(self, name: str, items: ItemBatch, raw: list[Tensor]) -> None:
        """Keep what the encoders gave for items that were not there.

        Args:
            raw: of each encoder `[tiles of all items, n, d]`.
        """
        parts = [tensor.detach().split(list(items.tiles)) for tensor in raw]
        for i, card in enumerate(items.cards):
            if card is None or self._file(name, card.key).exists():
                continue
            tensors = {str(e): part[i].cpu().contiguous().clone() for e, part in enumerate(parts)}
            about = {
                "encoders": len(tensors),
                "size": items.sizes[i],
                "grid": items.grids[i],
                "frame": card.frame,
                "tile": card.tile,
            }
            content = save(tensors, {"about": json.dumps(about)})
            if len(content) > self.room:
                if self.tell is not None:
                    self.tell(
                        "warning: the feature cache is full (max_size): no more is kept in it"
                    )
                self.room, self.tell = 0, None
                return
            cache.write(self._file(name, card.key), content)
            self.room -= len(content)

    def _file(self, name: str, key: str) -> Path:
        return self.folders[name] / key[:2] / f"{key}.safetensors"


def _hashed(data: Any) -> bytes | None:
    """The content of something in memory; None for what has no plain bytes."""
    digest = hashlib.blake2b()
    if isinstance(data, str | bytes | bytearray | memoryview):
        digest.update(data.encode() if isinstance(data, str) else data)
    elif isinstance(data, Image.Image):
        turned = data.getexif().get(0x0112, 1)
        about = (
            data.mode,
            data.size,
            turned,
            str(data.info.get("transparency")),
            data.getpalette(),
        )
        digest.update(repr(about).encode() + data.tobytes())
    elif isinstance(data, np.ndarray):
        digest.update(f"{data.dtype} {data.shape}".encode() + np.ascontiguousarray(data).tobytes())
    elif isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], np.ndarray):
        digest.update(f"{data[1]} ".encode() + (_hashed(data[0]) or b""))
    else:
        return None
    return digest.digest()


def chosen(specs: Mapping[str, ModalitySpec], words: FeatureCacheSpec, where: str) -> list[str]:
    """The modalities whose features may be kept.

    Raises:
        OmnimixError: one that is named and is none of the recipe or has no items of its own, or one that leaves
            something to chance.
    """
    names = []
    for name in words.modalities or specs:
        if name not in specs:
            known = ", ".join(specs)
            raise OmnimixError(
                f"the recipe has no modality {name!r}", where=where, hint=f"it has {known}"
            )
        spec = specs[name]
        own = isinstance(spec.opens, MediaOpener) and spec.source() is None
        if not own and words.modalities:
            raise OmnimixError(
                f"{name!r} lies on other items, and its features depend on theirs",
                where=where,
                hint="leave it out of modalities",
            )
        if drawn := sorted(_random(spec)):
            raise OmnimixError(
                f"{name!r} prepares items by chance ({', '.join(drawn)}), another way in every round",
                where=where,
                hint="name the others in modalities, or take the chance out of the recipe",
            )
        if own:
            names.append(name)
    return names


def _random(spec: ModalitySpec) -> set[str]:
    """Kinds of openers and steps that draw."""
    kinds: set[str] = set()

    def look(one: Spec) -> Spec:
        if getattr(one, "random", False):
            kinds.add(one.row_name())
        return one

    mapped(spec, look)
    return kinds


def prints(processor: Processor, names: list[str]) -> dict[str, str]:
    """For each modality what is done to an item before its encoders."""
    recipe, folders = processor.recipe, processor.weave.folders

    def one(spec: ModalitySpec) -> str:
        steps: list[Step] = [*spec.steps, *(s for e in spec.encoders() for s in e.steps)]
        with looking_in(folders):
            files = [found(name).read_bytes() for step in spec.every() for name in step.files()]
        words = [spec.opens.dump(defaults=True), *(step.dump(defaults=True) for step in steps)]
        return cache.digest(words, len(spec.encoders()), *files)

    return {name: one(recipe.modalities[name]) for name in names}


def keep(
    model: MultimodalLM,
    processor: Processor,
    words: FeatureCacheSpec | None,
    folder: Path = Path(),
    computed: str = "",
    learns: bool = False,
    writers: int = 1,
    tell: Callable[[str], None] | None = None,
    where: str = "feature_cache",
) -> None:
    """Let a model and its processor keep what frozen encoders give, or (None) no longer.

    Args:
        folder: that a relative folder is counted from.
        computed: in which precision, where that is not the weights' own.
        learns: whether the model is in training; encoders that learn are refused then.
        writers: processes that share the room.
        where: the words stand, for messages.

    Raises:
        OmnimixError: an encoder that learns, or as `chosen`.
    """
    processor.weave.features = None
    for name in model.modalities:
        model.modality(name).keep = None
    if words is None:
        return
    names = chosen(model.recipe.modalities, words, where)
    place = cache.folder("features") if words.folder is None else folder / words.folder
    places: dict[str, Path] = {}
    made = prints(processor, names)
    for name in names:
        modality = model.modality(name)
        if learns and (learning := _learning(modality)) is not None:
            raise it_learns(name, learning, where)
        adapters = [one.dump(defaults=True) for one in model.recipe.adapters]
        places[name] = place / cache.digest(
            made[name], weights(modality), computed, adapters, versions_of(PREPARING)
        )
    taken = sum(file.stat().st_size for file in place.rglob("*.safetensors"))
    room = max(0, words.bytes() - taken) // writers
    kept = FeatureCache(made, places, room, tell)
    processor.weave.features = kept
    for name in names:
        model.modality(name).keep = _keeper(kept, name, bool(computed))


def _keeper(
    kept: FeatureCache, name: str, autocast: bool
) -> Callable[[ItemBatch, list[Tensor]], None]:
    def keep(items: ItemBatch, raw: list[Tensor]) -> None:
        # What validation answers with runs in another precision than a step under autocast.
        if torch.is_autocast_enabled(raw[0].device.type) == autocast:
            kept.put(name, items, raw)

    return keep


def keys(processor: Processor, words: FeatureCacheSpec | None) -> None:
    """Let a processor without a model know items by what they would be kept under."""
    if words is not None:
        names = chosen(processor.recipe.modalities, words, "feature_cache")
        processor.weave.features = FeatureCache(prints(processor, names))


def versions_of(names: Sequence[str]) -> dict[str, str | None]:
    """The installed versions of packages."""
    return {name: version(name) for name in names}


def without(processor: Processor) -> Processor:
    """The same, whose items are opened whatever is kept of them."""
    made = processor.with_recipe(processor.recipe)
    made.weave.features = None
    return made


def it_learns(name: str, learning: str, where: str) -> OmnimixError:
    """Why features of an encoder are not kept."""
    return OmnimixError(
        f"the encoder of {name!r} learns ({learning}), so that its features change",
        where=where,
        hint="freeze it (trainable), or name the other modalities",
    )


def _learning(modality: Modality) -> str | None:
    named = modality.named_parameters()
    return next((n for n, p in named if ".encoders." in f".{n}" and p.requires_grad), None)


def weights(modality: Modality) -> str:
    """What the encoders of a modality compute with: their words, every weight, and where they run."""
    digest = hashlib.blake2b(digest_size=20)
    digest.update(json.dumps([e.dump(defaults=True) for e in modality.spec.encoders()]).encode())
    digest.update(torch.__version__.encode())
    for name, tensor in modality.state_dict().items():
        if ".encoders." in f".{name}":
            full: Tensor = getattr(tensor, "full_tensor", lambda own=tensor: own)().detach()
            digest.update(f"{name} {tensor.dtype} {tuple(full.shape)} {full.device.type}".encode())
            digest.update(full.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
