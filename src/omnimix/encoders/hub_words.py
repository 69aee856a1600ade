"""What a folder in the hub's layout says about an encoder: configuration, normalisation, tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnimix._transformers import quiet
from omnimix.errors import RecipeError
from omnimix.hf_config import OF_FILES, refuse_whole, unknown
from omnimix.hub import read_json


def told(place: Path, side: str = "") -> dict[str, Any]:
    """The words of a configuration in a folder of the hub, its defaults left out.

    Args:
        side: the word under which a configuration of several networks has the one that is meant.

    Raises:
        RecipeError: there is none, or transformers does not know it.
    """
    from transformers import AutoConfig

    try:
        whole = AutoConfig.from_pretrained(place, local_files_only=True)
    except (ValueError, OSError, TypeError, KeyError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise RecipeError(
            f"transformers cannot read the configuration ({line[:160].rstrip('.')})",
            where=str(place),
            hint="name a folder in the hub's layout, or write the words of `config`",
        ) from None
    refuse_whole(whole.model_type, str(place))
    found = getattr(whole, side, whole) if side else whole
    words = found.to_diff_dict() | {"model_type": found.model_type}
    idle = {*OF_FILES, *unknown(found, words)}
    return {w: v for w, v in words.items() if v is not None and w not in idle}


def completed(words: Mapping[str, Any], place: Path, side: str, word: str = "config") -> Any:
    """The words of an encoder with the configuration of a folder below its own."""
    if not place.is_dir():
        return dict(words)
    return {**words, word: {**told(place, side), **words.get(word, {})}}


def normalized(words: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """The words of an encoder of pictures, with the normalisation of the processor in its folder.

    Raises:
        RecipeError: neither the words nor the folder say one.
    """
    said = read_json(place / "preprocessor_config.json") or {} if place.is_dir() else {}
    said = said.get("image_processor", said)
    if "steps" in words:
        return dict(words)
    if "image_mean" not in said or "image_std" not in said:
        raise RecipeError(
            "nothing says how pictures are normalized for the encoder",
            where=str(place),
            hint="write steps: [{kind: normalize, mean: [...], std: [...]}]",
        )
    step = {"kind": "normalize", "mean": said["image_mean"], "std": said["image_std"]}
    return {**words, "steps": [step]}


def loaded(
    name: str, place: Path, config: Any, tensors: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """The tensors of a folder as transformers reads them into a class of its own, which knows older names.

    What the class has no place for comes along under its own name, and what is of another shape with that shape and
    no numbers. A folder of a whole model that the class finds nothing in gives its tensors as they are.

    Args:
        name: of the class.
        tensors: what the files hold, under their own names.
    """
    if not place.is_dir():
        return tensors
    import transformers

    try:
        with quiet():
            model, report = getattr(transformers, name).from_pretrained(
                place,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # refused by name when the part is filled
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RecipeError(
            f"transformers cannot read the weights ({line.rstrip('.')})",
            where=str(place),
            hint="the configuration in the recipe must be that of the files",
        ) from None
    found = {n: t for n, t in model.state_dict().items() if n not in report["missing_keys"]}
    if not found:
        return tensors
    left = {n: tensors.get(n, torch.empty(0)) for n in report["unexpected_keys"]}
    misshapen = {n: torch.empty(shape, device="meta") for n, shape, _ in report["mismatched_keys"]}
    return {**found, **left, **misshapen}
