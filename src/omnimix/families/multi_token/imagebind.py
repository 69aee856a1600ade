"""ImageBind's one file: sizes out of its shapes, its keys, and a folder written back.

The reference expects the file in a folder `.checkpoints` where it is started, and the word list of ImageBind's
texts comes with its code; both may lie in one folder here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnimix.checkpoints.base import looks_like
from omnimix.checkpoints.files import heads, layers, tensors_of
from omnimix.errors import CheckpointError
from omnimix.families.multi_token.encoders import Facts, Sense, Words, encoder_of

FILE = "imagebind_huge.pth"
HERE = Path(".checkpoints") / FILE
VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
TRUNKS = {"vision": (1280, 16), "audio": (768, 12), "text": (1024, 16)}
"""Widths and heads of the published trunks; no shape tells the heads."""


class ImageBindSense(Sense):
    """Pictures, sounds and, where the word list lies beside the file, texts."""

    def spot(self, place: str | Path | None, name: str) -> Path:
        path = HERE if place is None else Path(place)
        files = [path] if path.is_file() else [*path.glob("*.pth"), *path.glob("*.safetensors")]
        if len(files) != 1:
            raise CheckpointError(
                f"no {FILE}: {looks_like(path)}",
                where=str(path),
                hint=f"name the file or its folder with --part imagebind=FILE; it looks for {HERE}",
            )
        return files[0]

    def fit(self, words: Words, encoder: Words, place: Path, options: Facts) -> None:
        shapes = {key: tuple(tensor.shape) for key, tensor in tensors_of(place).items()}
        reads = (place.parent / VOCABULARY).is_file()
        kinds = words["opens"]["kinds"]
        given = "modality_preprocessors"
        try:
            for name in TRUNKS:
                built = reads or name != "text"
                encoder[name] = _trunk(shapes, name, options) if built else None
            encoder["width"] = shapes["modality_heads.vision.2.weight"][0]
            patch = shapes[f"{given}.vision.rgbt_stem.proj.1.weight"][-1]
            patches = shapes[f"{given}.vision.pos_embedding_helper.pos_embed"][1] - 1
            if reads:
                encoder["vocabulary"] = shapes[f"{given}.text.token_embedding.weight"][0]
                encoder["context"] = shapes[f"{given}.text.pos_embed"][1]
        except KeyError as error:
            raise CheckpointError(
                f"no ImageBind: there is no {error.args[0]}",
                where=str(place),
                hint="copy the file again",
            ) from None
        encoder |= {"size": round(patches**0.5) * patch, "patch": patch}
        kinds["image"]["steps"][0]["size"] = encoder["size"]
        if reads:
            step = {"kind": "tokenize", "path": VOCABULARY, "max_length": encoder["context"]}
            kinds["document"] = {"opens": "document", "steps": [step]}

    def unread(self, words: Facts) -> list[str]:
        reads = encoder_of(words).get("text") is not None
        names = ["depth", "thermal", "imu", *([] if reads else ["text"])]
        stages = ("preprocessors", "trunks", "heads", "postprocessors")
        return [f"modality_{stage}.{name}.*" for name in names for stage in stages]

    def told(self, words: Facts) -> dict[str, Any]:
        encoder_of(words)
        return {}

    def options(self, words: Facts) -> dict[str, Any]:
        trunks = {name: encoder_of(words).get(name) for name in TRUNKS}
        return {f"{name}_heads": trunk["heads"] for name, trunk in trunks.items() if trunk}

    def carried(self, words: Facts, place: Path) -> dict[str, Path]:
        reads = encoder_of(words).get("text") is not None
        return {VOCABULARY: place.parent / VOCABULARY} if reads else {}


def _trunk(shapes: Mapping[str, tuple[int, ...]], name: str, options: Facts) -> dict[str, int]:
    stem = f"modality_trunks.{name}.blocks."
    width = shapes[f"{stem}0.norm_1.weight"][0]
    number = heads(f"{name}_heads", f"{name} trunk", width, TRUNKS[name], options)
    return {"width": width, "blocks": layers(shapes, stem), "heads": number}
