"""A recipe as a model folder holds it: all that it names lies in the folder, so that the folder can be moved."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path, PurePosixPath

from omnimix.compose.recipe import Recipe
from omnimix.config import Spec, mapped
from omnimix.language.tokenizer import TokenizerSpec
from omnimix.media.tiles import Step

_TAKEN = frozenset(
    {"tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "recipe.yaml"}
    | {
        "modeling_omnimix.py",
        "processor_config.json",
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }
    | {"tokenizer.json", "tokenizer.model", "certificate.json", "fingerprint.json", "README.md"}
)
"""Names of a model folder's own files."""


def names(recipe: Recipe) -> dict[str, str]:
    """The files that steps name, and their names in a model folder: as they are, if they can be."""
    found: dict[str, str] = {}
    for name in recipe.files():
        path = PurePosixPath(name)
        inside = not path.is_absolute() and ".." not in path.parts and name not in _TAKEN
        wanted, number = str(path) if inside else f"step.{path.name}", 1
        while wanted in found.values():
            number += 1
            wanted = f"step{number}.{path.name}"
        found[name] = wanted
    return found


def tokenizer_name(spec: TokenizerSpec) -> str:
    """The name of the tokenizer's file in a model folder: its own, where that is plain and of the form saved."""
    path = PurePosixPath(spec.path)
    own = path.name == spec.path and path.suffix == PurePosixPath(spec.saved_as).suffix
    return spec.path if own else spec.saved_as


def saved(recipe: Recipe) -> Recipe:
    """The recipe with the names that its files have in a model folder.

    The name of pretrained weights stays where it is one of the hub's, to say where they came from; the folder
    of a machine is left out.
    """
    files = names(recipe)

    plugins: dict[str, str] = {}

    def change(spec: Spec) -> Spec:
        source = _brought_by(spec)
        if source is not None:
            plugins[spec.row_name()] = source
        if isinstance(spec, TokenizerSpec):
            return spec.model_copy(update={"path": tokenizer_name(spec)})
        if isinstance(spec, Step) and spec.files():
            return spec.renamed(files)
        if getattr(spec, "dtype", None) is not None:  # says how a run holds the part
            spec = spec.model_copy(update={"dtype": None})
        weights = getattr(spec, "weights", None)
        if isinstance(weights, str) and Path(weights).is_absolute():
            return spec.model_copy(update={"weights": None})
        return spec

    found: Recipe = mapped(recipe, change)
    return found.model_copy(update={"plugins": plugins}) if plugins else found


def _brought_by(spec: Spec) -> str | None:
    """The package or file that a part's class comes from; None for omnimix's own."""
    module = type(spec).__module__
    top = module.partition(".")[0]
    if top == "omnimix" or not spec.row_name():
        return None
    if ":" in spec.row_name():
        return f"{module}.py" if module == top else top
    packages = packages_distributions().get(top, [top])
    try:
        return f"{packages[0]} {version(packages[0])}"
    except PackageNotFoundError:
        return packages[0]
