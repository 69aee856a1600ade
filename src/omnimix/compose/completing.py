"""What a recipe need not say, since pretrained parts say it: configurations, the tokenizer, its chat template.

Works on the plain words of a recipe, before they are checked. Nothing is looked up where nothing is left out,
so that a saved model, which says everything, opens without a look beyond its folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omnimix import config
from omnimix.errors import OmnimixError, RecipeError, RegistryError
from omnimix.hub import located, read_json
from omnimix.language import told
from omnimix.prompts import chat_template
from omnimix.registry import CONNECTORS, ENCODERS, LANGUAGES, Registry

TOKENIZER = "tokenizer"
"""The word in place of a style's name that takes it from the tokenizer's chat template."""

_OUT = "name a local folder in the hub's layout or a hub id; a path is counted from the recipe's folder"


def completed(words: Mapping[str, Any], folders: Sequence[Path], where: str) -> dict[str, Any]:
    """The words with what is left out; names of local weights become full paths.

    Args:
        words: of a recipe, its base laid below.
        folders: what local names are counted from, in order.

    Raises:
        OmnimixError: weights that are not there, or that do not say what is left out; with the YAML path.
    """
    found: dict[str, Any] = config.plain_copy(words)
    language = found.get("language")
    if isinstance(language, dict) and isinstance(language.get("weights"), str):
        with _at(f"{where}: language.weights"):
            _language(found, language, folders)
    for path, part, table, modality in _parts(found):
        with _at(f"{where}: {path}.weights"):
            _part(part, table, modality, folders)
    style = found.get("template")
    over = style if isinstance(style, dict) else {}
    if TOKENIZER in (style, over.get("base")):
        with _at(f"{where}: template"):
            read = _template(found.get("tokenizer"), folders)
        found["template"] = read | {word: own for word, own in over.items() if word != "base"}
    return found


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Errors raised inside are about this place of the recipe."""
    try:
        yield
    except OmnimixError as error:
        raise error.at(where) from None


def _language(words: dict[str, Any], language: dict[str, Any], folders: Sequence[Path]) -> None:
    whole = "model_type" in language.get("config", {}) and "tokenizer" in words
    if whole and not any((folder / language["weights"]).exists() for folder in folders):
        return
    place, fetched = located(language["weights"], folders, "language model", _OUT)
    if not fetched:
        language["weights"] = str(place)
    folder = place if place.is_dir() else place.parent
    if "model_type" not in language.get("config", {}):
        row = LANGUAGES.load(str(language.get("kind", LANGUAGES.only)))
        language |= row.complete(language, folder)
    if "tokenizer" not in words:
        words["tokenizer"] = told.tokenizer(folder)


def _parts(
    words: Mapping[str, Any],
) -> Iterator[tuple[str, dict[str, Any], Registry, Mapping[str, Any]]]:
    """Encoders and connectors that name weights: path, words, table and the modality's words."""
    modalities = words.get("modalities")
    for name, modality in modalities.items() if isinstance(modalities, dict) else ():
        branches = modality.get("branches") if isinstance(modality, dict) else None
        for i, branch in enumerate(branches if isinstance(branches, list) else ()):
            if not isinstance(branch, dict):
                continue
            at = f"modalities.{name}.branches.{i}"
            encoders = branch.get("encoders")
            found = [
                (f"{at}.encoders.{j}", one, ENCODERS)
                for j, one in enumerate(encoders if isinstance(encoders, list) else ())
            ]
            for path, part, table in [
                *found,
                (f"{at}.connector", branch.get("connector"), CONNECTORS),
            ]:
                if isinstance(part, dict) and isinstance(part.get("weights"), str):
                    yield path, part, table, modality


def _part(
    part: MutableMapping[str, Any],
    table: Registry,
    modality: Mapping[str, Any],
    folders: Sequence[Path],
) -> None:
    try:
        row = table.load(str(part.get("kind")))
    except RegistryError:
        return  # said better where the words are checked
    local = next((f / part["weights"] for f in folders if (f / part["weights"]).exists()), None)
    if local is not None:
        part["weights"] = str(local.resolve())
    elif table is ENCODERS:
        part["weights"] = row.named(part)
    if table is not ENCODERS:
        return
    needed = [n for n, field in row.model_fields.items() if field.is_required() and n != "kind"]
    if "steps" in part and all(name in part for name in needed):
        return
    place, _ = located(part["weights"], folders, "encoder", _OUT)
    prepared = modality.get("steps")
    normal = any(
        isinstance(step, Mapping) and step.get("kind") in ("normalize", "renormalize")
        for step in (prepared if isinstance(prepared, list) else ())
    )
    given = {"steps": [], **part} if normal else part
    part |= row.complete(given, place)


def _template(tokenizer: Any, folders: Sequence[Path]) -> dict[str, Any]:
    path = tokenizer.get("path") if isinstance(tokenizer, Mapping) else None
    if not isinstance(path, str):
        raise RecipeError(
            "`tokenizer` takes the style from the tokenizer, and there is none",
            hint="add language: {weights: ...} or tokenizer: {kind: fast, path: ...}",
        )
    places = [folder / path for folder in folders if (folder / path).exists()] or [Path(path)]
    folder = places[0] if places[0].is_dir() else places[0].parent
    file = folder / "chat_template.jinja"
    jinja = (
        file.read_text(encoding="utf-8")
        if file.is_file()
        else chat_template.of(read_json(folder / "tokenizer_config.json") or {})
    )
    if jinja is None:
        raise RecipeError(
            "the tokenizer has no chat template",
            where=str(folder),
            hint="name a style of omnimix (plain, vicuna_v15 ...), or write one as words of `template`",
        )
    tokens = (tokenizer.get("bos_token"), tokenizer.get("eos_token"))
    return chat_template.read(jinja, *tokens).dump()
