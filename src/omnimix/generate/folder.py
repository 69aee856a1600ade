"""Model folders: the ones that ship, any that `save_pretrained` wrote, and released checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from omnimix import _transformers
from omnimix.checkpoints import base, reading, releases
from omnimix.checkpoints.base import Parts, Recognised
from omnimix.checkpoints.files import check_finite, check_pointer
from omnimix.checkpoints.runs import check_is_no_run
from omnimix.compose.holding import Holding
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.errors import CheckpointError, RegistryError, first_of, reason
from omnimix.hub import read_json
from omnimix.registry import CHECKPOINTS, did_you_mean

FOLDER = Path(__file__).parent.parent / "models"


def shipped() -> list[str]:
    """Names of the models that ship with omnimix."""
    return sorted(path.parent.name for path in FOLDER.glob("*/recipe.yaml"))


def find(name_or_folder: str | Path) -> Path:
    """A model's folder; a shipped name goes before a folder of the same name (write `./name` for that).

    Raises:
        RegistryError: neither a shipped model nor a folder.
        CheckpointError: a folder or file that holds no model, such as that of a training run.
    """
    return look(name_or_folder)[0]


def look(name_or_folder: str | Path) -> tuple[Path, Recognised | None]:
    """As `find`, with what a family of released checkpoints says about the folder."""
    name = str(name_or_folder)
    if not name.strip():
        raise RegistryError(
            "the model has no name", hint=f"known are {', '.join(shipped())} and folders"
        )
    if name in shipped():
        return FOLDER / name, None
    path = Path(name_or_folder)
    if path.is_dir() and not (path / "config.json").is_file():
        check_is_no_run(path)
    recognised = base.recognise(path)
    if recognised is not None:
        return path, recognised
    if not path.exists():
        hint = did_you_mean(
            name, [*shipped(), *releases.available()], "`omnimix models` lists them"
        )
        if "/" in name and not hint.startswith("did"):
            hint = "check the path; `omnimix models` lists the names"
        raise RegistryError(f"unknown model {name!r}, and there is no such folder", hint=hint)
    _check(path)
    return path, None


def locate(name_or_folder: str | Path) -> releases.Local:
    """As `find`, and released models by id or name: fetched from the hub, or from a folder of models.

    A folder of that name goes before the id.

    Raises:
        RegistryError, CheckpointError: as `find`; files that cannot be had; a family without a reader.
    """
    name = str(name_or_folder)
    release = releases.lookup(name)
    if release is None or name in shipped() or Path(name).exists():
        path, recognised = look(name_or_folder)
        return releases.Local(path, {}, recognised)
    if (release.about.reader or release.family) not in CHECKPOINTS:
        raise CheckpointError(
            f"checkpoints of {release.about.title} cannot be opened yet",
            where=release.id,
            hint=f"families that can: {', '.join(CHECKPOINTS) or 'none'}",
        )
    return releases.fetch(release)


def check_words(name_or_folder: str | Path, brought: Parts) -> None:
    """Refuse words and parts that the model has no use for, before any file is fetched.

    A folder of a released checkpoint is asked when it is opened.

    Raises:
        CheckpointError: names the first, with the nearest known one.
    """
    name = str(name_or_folder)
    release, local = releases.lookup(name), Path(name).exists()
    if release is not None and name not in shipped() and not local:
        reader = release.about.reader or release.family
        if reader in CHECKPOINTS:
            CHECKPOINTS.load(reader)().checked(brought, release.id)
    elif name in shipped() or (Path(name) / "recipe.yaml").is_file():
        for word in (*brought.words, *brought.places):
            raise CheckpointError(
                f"the model knows no word or part {word!r}",
                where=name,
                hint=did_you_mean(word, ("device", "dtype", "parallel", "quantization")),
            )


def dtype(name_or_folder: str | Path, place: releases.Local) -> torch.dtype:
    """The floating type that a model is opened in where nobody says one."""
    if place.recognised is not None:
        return place.recognised[0].dtype or torch.float32
    release = releases.lookup(str(name_or_folder))
    if release is None or (place.folder / "recipe.yaml").is_file():
        return torch.float32
    family = CHECKPOINTS.load(release.about.reader or release.family)
    released: torch.dtype | None = family.dtype
    return released or torch.float32


def _check(path: Path) -> None:
    """Refuse what cannot be a model, saying what lies there."""
    known = "; ".join(f"{f.name}: {', '.join(f.layouts)}" for f in base.families())
    way_out = (
        "name a folder that omnimix wrote (config.json, recipe.yaml, a tokenizer, model.safetensors) "
        f"or a released checkpoint ({known})"
    )
    if not path.is_dir():
        raise CheckpointError(
            "no model: this is a file, not a folder", where=str(path), hint=way_out
        )
    present = sorted(child.name for child in path.iterdir())
    missing = [name for name in ("config.json", "recipe.yaml") if name not in present]
    if not any(name.endswith(".safetensors") for name in present):
        missing.append("model.safetensors")
    if missing:
        shown = ", ".join(present[:6]) + (f" and {len(present) - 6} more" if present[6:] else "")
        raise CheckpointError(
            f"no model: {', '.join(missing)} missing (the folder holds {shown or 'nothing'})",
            where=str(path),
            hint=way_out,
        )


def read(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    parts: Parts | None = None,
    holding: Holding | None = None,
    recognised: Recognised | None = None,
) -> tuple[MultimodalLM, Processor]:
    """Model and processor of a folder, every weight accounted for.

    Args:
        parts: of a released checkpoint, what it does not hold.
        holding: how the model is held, where not whole on `device`.
        recognised: what was found there already.

    Raises:
        CheckpointError: files that cannot be read, or weights that are missing, left over or misshapen.
    """
    if not (folder / "recipe.yaml").is_file():
        model, processor, _ = reading.load(
            base.open_release(recognised or folder, parts), device, dtype, holding=holding
        )
        return model, processor
    for file in sorted(folder.glob("*.safetensors")):
        check_pointer(file)
    processor = Processor.from_pretrained(folder)
    holding = holding or Holding(device)
    words = holding.words(processor.recipe) | _config(folder)
    try:
        with _transformers.quiet():
            model, report = MultimodalLM.from_pretrained(
                folder,
                dtype=dtype,
                output_loading_info=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # they are in the report, by name
                **words,
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"the weights cannot be loaded ({reason(error).rstrip('.')})",
            where=str(folder),
            hint="the recipe and the weights must come from one save; copy the whole folder again",
        ) from error
    except SafetensorError as error:
        raise CheckpointError(
            f"the weights are damaged ({error})",
            where=str(folder),
            hint="copy model.safetensors again",
        ) from error
    _check_report(report, folder)
    check_finite(model.named_parameters(), str(folder))
    return holding.settle(model.eval()), processor


def _config(folder: Path) -> dict[str, Any]:
    """The configuration as a word of `from_pretrained`, where transformers cannot read the file itself.

    Raises:
        CheckpointError: it is another model's, or says no model.
    """
    file = folder / "config.json"
    kind, found = MultimodalLM.config_class.model_type, read_json(file) or {}
    if found.get("model_type") != kind:
        raise CheckpointError(
            f"model_type is {found.get('model_type')!r} where {kind!r} is wanted",
            where=str(file),
            hint="the recipe and the weights must come from one save; copy the whole folder again",
        )
    marked = file.read_bytes()[:3] == b"\xef\xbb\xbf"
    return {"config": MultimodalLM.config_class.from_dict(found)} if marked else {}


def _misfit(key: Any) -> str:
    if isinstance(key, str):
        return key
    name, stored, wanted = key
    return f"{name} (is {list(stored)}, wanted is {list(wanted)})"


def _check_report(report: dict[str, Any], folder: Path) -> None:
    words = {
        "missing_keys": "missing",
        "unexpected_keys": "left over",
        "mismatched_keys": "misshapen",
    }
    for key, word in words.items():
        names = sorted(map(_misfit, report.get(key, ())))
        if names:
            raise CheckpointError(
                f"{len(names)} weights are {word}: {first_of(names)}",
                where=str(folder),
                hint="recipe.yaml and config.json must be those the weights were saved with",
            )
