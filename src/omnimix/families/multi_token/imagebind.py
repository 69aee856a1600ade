"""ImageBind's one file: sizes out of its shapes, its keys, and a folder written back.

The reference expects the file in a folder `.checkpoints` where it is started, and the word list of ImageBind's
texts comes with its code; both may lie in one folder here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnimix.checkpoints import reading
from omnimix.checkpoints.base import looks_like
from omnimix.checkpoints.tables import Ignore, Rename, RenameTable
from omnimix.errors import CheckpointError

FILE = "imagebind_huge.pth"
HERE = Path(".checkpoints") / FILE
WORDS = "bpe_simple_vocab_16e6.txt.gz"
HEADS = {"vision": 16, "audio": 12, "text": 16}
"""Heads of the published trunks, which no shape tells."""

WIDTHS = {"vision": 1280, "audio": 768, "text": 1024}
"""Their widths."""


def spot(place: str | Path | None) -> Path:
    """The file of weights.

    Raises:
        CheckpointError: there is none.
    """
    path = HERE if place is None else Path(place)
    found = [path] if path.is_file() else []
    if path.is_dir():
        found = sorted((*path.glob("*.pth"), *path.glob("*.safetensors")))
    if len(found) != 1:
        raise CheckpointError(
            f"no {FILE}: {looks_like(path)}",
            where=str(path),
            hint=f"name the file or its folder with --part imagebind=FILE; it looks for {HERE}",
        )
    return found[0]


def sized(words: dict[str, Any], place: Path, options: Mapping[str, Any]) -> None:
    stored = reading.tensors_of(place)
    shapes = {key: tuple(tensor.shape) for key, tensor in stored.items()}
    reads = (place.parent / WORDS).is_file()
    kinds = words["opens"]["kinds"]
    (encoder,) = words["branches"][0]["encoders"]
    encoder["text"] = None
    for name in ("vision", "audio", "text"):
        if name == "text" and not reads:
            continue
        encoder[name] = _trunk(shapes, name, options, place)
    try:
        encoder["width"] = shapes["modality_heads.vision.2.weight"][0]
        patch = shapes["modality_preprocessors.vision.rgbt_stem.proj.1.weight"][-1]
        patches = shapes["modality_preprocessors.vision.pos_embedding_helper.pos_embed"][1] - 1
    except KeyError as error:
        raise _incomplete(error.args[0], place) from None
    size = round(patches**0.5) * patch
    encoder |= {"size": size, "patch": patch}
    kinds["image"]["steps"][0]["size"] = size
    if reads:
        table = shapes["modality_preprocessors.text.token_embedding.weight"]
        context = shapes["modality_preprocessors.text.pos_embed"][1]
        encoder |= {"vocabulary": table[0], "context": context}
        step = {"kind": "tokenize", "path": WORDS, "max_length": context}
        kinds["document"] = {"opens": "document", "steps": [step]}


def _trunk(
    shapes: Mapping[str, tuple[int, ...]], name: str, options: Mapping[str, Any], place: Path
) -> dict[str, int]:
    stem = f"modality_trunks.{name}.blocks."
    blocks = {m[1] for key in shapes if (m := re.match(re.escape(stem) + r"(\d+)\.", key))}
    if not blocks:
        raise _incomplete(f"{stem}0", place)
    width = shapes[f"{stem}0.norm_1.weight"][0]
    heads = options.get(f"{name}_heads")
    if heads is None and width != WIDTHS[name]:
        raise CheckpointError(
            f"the {name} trunk is {width} wide, the published one {WIDTHS[name]}, so its number of heads is "
            "not known",
            where=str(place),
            hint=f"give it: --part {name}_heads=4",
        )
    return {"width": width, "blocks": len(blocks), "heads": int(heads or HEADS[name])}


def _incomplete(key: str, place: Path) -> CheckpointError:
    return CheckpointError(
        f"no ImageBind: there is no {key}", where=str(place), hint="copy the file again"
    )


def table(ours: str, words: Mapping[str, Any]) -> RenameTable:
    (encoder,) = words["branches"][0]["encoders"]
    reads = encoder.get("text") is not None
    unused = ["depth", "thermal", "imu", *([] if reads else ["text"])]
    parts = ("preprocessors", "trunks", "heads", "postprocessors")
    return RenameTable(
        *(
            Ignore(f"modality_{part}.{name}.*", f"no {name} is asked about")
            for name in unused
            for part in parts
        ),
        Rename("modality_*", f"{ours}modality_*"),
    )


def files(words: Mapping[str, Any]) -> dict[str, Any]:
    return {}


def carried(words: Mapping[str, Any], place: Path) -> dict[str, Path]:
    (encoder,) = words["branches"][0]["encoders"]
    return {WORDS: place.parent / WORDS} if encoder.get("text") is not None else {}


def heads(words: Mapping[str, Any]) -> dict[str, int]:
    """The words that no shape tells."""
    (encoder,) = words["branches"][0]["encoders"]
    found = {name: (encoder.get(name) or {}).get("heads") for name in HEADS}
    return {f"{name}_heads": count for name, count in found.items() if count is not None}
