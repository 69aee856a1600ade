"""What a golden case brings beside its checkpoint, in the words of the family's reader.

`python -m omnimix_golden.parts CASE ...` writes it as `parts.json` beside the checkpoint, where readers look by
themselves: then `omnimix chat CASE/checkpoint` needs no further word.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnimix.checkpoints.base import Parts
from omnimix_golden.case import Case


def parts_of(folder: Path, facts: Mapping[str, Any]) -> Parts:
    """The parts of a case: its stand-ins by place, and the sizes that no file of it tells."""
    family = {"prismatic": _prismatic, "multi_token": _multi_token, "xgen_mm": _xgen_mm}
    return family.get(str(facts.get("family")), _sphinx)(folder, facts)


def of_case(folder: Path) -> Parts:
    """The same for a case in a folder."""
    case = Case(folder)
    case.close()
    return parts_of(folder, case.facts)


def _prismatic(folder: Path, facts: Mapping[str, Any]) -> Parts:
    """Weights, picture size and shrunk trunks."""
    places: dict[str, str | Path] = {}
    args: dict[str, Any] = {}
    for stream, words in (facts.get("featurizers") or {}).items():
        part = "vision" if stream == "featurizer" else stream
        places[part] = folder / words["weights"]
        args[part] = dict(words.get("shrunk_timm_kwargs") or {})
    if (folder / "backbones" / "llm").is_dir():
        places["llm"] = folder / "backbones" / "llm"
    size = (facts.get("ids") or {}).get("image_size")
    return Parts(places, {"vision": args, **({"image_size": size} if size else {})})


def _sphinx(folder: Path, facts: Mapping[str, Any]) -> Parts:
    """Heads of the tiny encoders and the context."""
    dims = facts.get("encoder_dims") or {}
    clip, blip2 = dims.get("clip_vit") or {}, dims.get("blip2") or {}
    words = {
        "dino_heads": (dims.get("dinov2") or {}).get("heads"),
        "vit_heads": blip2.get("vision_heads"),
        "qformer_heads": blip2.get("qformer_heads"),
        "max_seq_len": facts.get("max_seq_len"),
    }
    if clip.get("head_width"):
        words["clip_heads"] = int(clip["width"]) // int(clip["head_width"])
    return Parts(words={word: int(value) for word, value in words.items() if value})


def _xgen_mm(folder: Path, facts: Mapping[str, Any]) -> Parts:
    """How pictures are cut and how wide the resampler's heads are."""
    config = facts.get("config") or {}
    named = ("image_aspect_ratio", "anyres_patch_sampling", "num_vision_tokens")
    words = {word: config[word] for word in named if word in config}
    if config.get("resampler"):
        words["heads"] = config["resampler"]["heads"]
    if config.get("anyres_grids"):
        words["anyres_grids"] = config["anyres_grids"]
    return Parts(words=words)


def _multi_token(folder: Path, facts: Mapping[str, Any]) -> Parts:
    """The base model and the encoders under their hub ids, and heads of ImageBind."""
    heads = (facts.get("dims") or {}).get("imagebind") or {}
    known = ("vision_heads", "audio_heads", "text_heads")
    words: dict[str, Any] = {word: heads[word] for word in known if word in heads}
    places: dict[str, str | Path] = {}
    for row in facts.get("modalities") or ():
        given = row.get("kwargs") or {}
        if given.get("pad_non_square_images"):
            words["pad_non_square_images"] = True
        named = folder / "backbones" / str(given.get("model_name_or_path"))
        if named.is_dir():
            places[row["name"]] = named
    return Parts(places, words)


def write(folder: Path) -> Path:
    """The same as parts.json in the case's folder."""
    parts = of_case(folder)
    places = {
        name: Path(place).relative_to(folder).as_posix() for name, place in parts.places.items()
    }
    path = folder / "parts.json"
    said = {"places": places, "words": parts.words}
    path.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    for case in sys.argv[1:]:
        sys.stdout.write(f"{write(Path(case))}\n")
