"""The recipe: a multimodal language model as data."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from omnimix import config
from omnimix.compose import completing
from omnimix.compose.adapters import Adapter
from omnimix.compose.marks import Marks
from omnimix.compose.modality import ModalitySpec
from omnimix.config import Spec, part
from omnimix.errors import RecipeError
from omnimix.language.causal_lm import CausalLM
from omnimix.language.tokenizer import TokenizerSpec
from omnimix.prompts.coordinates import Codec, Coordinates
from omnimix.prompts.template import Template, by_name, names as styles
from omnimix.registry import (
    ARRANGES,
    CODECS,
    CONNECTORS,
    ENCODERS,
    FINISHES,
    LANGUAGES,
    OPENERS,
    STEPS,
    TABLES,
    TOKENIZERS,
    did_you_mean,
)

FOLDER = Path(__file__).parent.parent / "recipes"

# Names that the model's own tree uses beside its modalities.
_TAKEN = frozenset({"language", "config", "recipe"})


def _fractions(value: Any) -> Any:
    """Coordinates without a `kind` are fractions, the first convention there was."""
    return {"kind": "fractions", **value} if isinstance(value, Mapping) else value


class Recipe(Spec):
    """A model: modalities, language model, tokenizer and template.

    Attributes:
        name: what it is called.
        about: one sentence for lists.
        language: the language model.
        tokenizer: its tokenizer; None for recipes that are only looked at.
        template: a style by name or in place.
        modalities: the senses by name, in order; a later one may look at an earlier one. One that is null
            is left out, so that a recipe can drop a sense of its base.
        model_max_length: most tokens of one sequence; None takes the language model's own limit.
        coordinates: how boxes and points are written in text, by a convention of `CODECS`.
        marks: for a model that knows neither tokens for regions nor coordinates: regions are drawn on the
            picture with numbers. See `omnimix.compose.pointing`.
        adapters: LoRA and its like beside the weights of some parts. See `omnimix.compose.adapters`.
        plugins: in a saved model, the rows that are not omnimix's own, and the package or file of each.
    """

    name: str
    about: str = ""
    language: Annotated[SerializeAsAny[CausalLM], part(LANGUAGES)]
    tokenizer: Annotated[SerializeAsAny[TokenizerSpec], part(TOKENIZERS)] | None = None
    template: Annotated[Template, by_name] = Template()
    modalities: dict[str, ModalitySpec] = {}
    model_max_length: int | None = None
    coordinates: Annotated[SerializeAsAny[Codec], part(CODECS), BeforeValidator(_fractions)] = (
        Coordinates()
    )
    marks: Marks | None = None
    adapters: tuple[Adapter, ...] = ()
    plugins: dict[str, str] = {}

    def model_post_init(self, _: Any) -> None:
        for name in self.modalities:
            if not name.isidentifier() or name in _TAKEN:
                raise RecipeError(
                    f"{name!r} cannot name a modality", hint="use a plain word such as image"
                )

    def without_adapters(self) -> Recipe:
        """The same model with its adapters left out, or worked into the weights."""
        return self.model_copy(update={"adapters": ()}) if self.adapters else self

    def files(self) -> list[str]:
        """Names of the files that steps read, which lie beside the recipe."""
        names = {
            file for m in self.modalities.values() for step in m.every() for file in step.files()
        }
        return sorted(names)

    def modality_for(self, kind: str) -> str | None:
        """The modality that takes media of a kind: the one of that name, else the first that opens it."""
        if kind in self.modalities:
            return kind
        return next((name for name, m in self.modalities.items() if kind in m.opens.takes()), None)


def parse(
    data: Any, where: str, overrides: Sequence[str] = (), folders: Sequence[Path] | None = None
) -> Recipe:
    """Plain data to a recipe; one level of `base:` is laid below it.

    Args:
        folders: what names of pretrained weights are counted from; what these say need not be written. None
            looks nothing up, for a recipe that says everything.

    Raises:
        RecipeError: names the path of the first problem.
    """
    if not isinstance(data, Mapping):
        raise RecipeError("a recipe is a table of words", where=where)
    data = config.with_overrides(with_base(data, where), overrides)
    senses = data.get("modalities")
    if isinstance(senses, Mapping):
        data["modalities"] = {name: words for name, words in senses.items() if words is not None}
    _check_plugins(data.get("plugins"), where)
    if folders is not None:
        data = completing.completed(data, folders, where)
    return config.validate(Recipe, data, where)


def _check_plugins(plugins: Any, where: str) -> None:
    """Refuse a model whose parts come from a package or file that is not here, by the name of that."""
    for row, source in plugins.items() if isinstance(plugins, Mapping) else ():
        module = str(row).partition(":")[0]
        known = any(row in table for table in TABLES) if ":" not in row else _importable(module)
        if not known:
            file = str(source).endswith(".py")
            raise RecipeError(
                f"the model needs {source}, which brings {row!r}",
                where=where,
                hint=f"give it again: --plugin {source}"
                if file
                else f"install it: pip install {str(source).split(' ')[0]}",
            )


def _importable(module: str) -> bool:
    try:
        return module in sys.modules or find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def with_base(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Lay the recipe over the shipped one that it names as `base`; a base has no base itself."""
    words = dict(data)
    base = words.pop("base", None)
    if base is None:
        return words
    below = config.read_yaml(shipped(str(base)))
    if "base" in below:
        raise RecipeError(
            f"{base!r} has a base itself", where=f"{where}: base", hint="one level is enough"
        )
    return config.merge(below, words)


def shipped(name: str) -> Path:
    """The file of a recipe that ships with omnimix.

    Raises:
        RecipeError: unknown name, with the nearest known one.
    """
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise RecipeError(f"unknown recipe {name!r}", hint=did_you_mean(name, names()))
    return path


def names() -> list[str]:
    """Names of the recipes that ship."""
    return sorted(p.stem for p in FOLDER.glob("*.yaml") if "." not in p.stem)


def find(name_or_path: str | Path) -> Path:
    """A recipe file: a path (or a model folder with `recipe.yaml`), else a shipped name."""
    path = Path(name_or_path)
    if path.is_dir() and (path / "recipe.yaml").is_file():
        return path / "recipe.yaml"
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise RecipeError("there is no such file", where=str(path), hint="check the path")
        return path
    return shipped(str(name_or_path))


def load(
    name_or_path: str | Path, overrides: Sequence[str] = (), folders: Sequence[Path] = ()
) -> Recipe:
    """A recipe by shipped name, file or model folder, with dotted overrides.

    Args:
        folders: what names of pretrained weights are counted from where the recipe's own folder has them not.
    """
    path = find(name_or_path)
    return parse(config.read_yaml(path), path.name, overrides, [path.parent, *folders])


def dump(recipe: Recipe) -> str:
    """The recipe as YAML that `parse` reads back to an equal one, its defaults written out."""
    return config.to_yaml(recipe.dump(defaults=True))


_NAMES = frozenset({"name", "about", "plugins"})

_UNSEEN = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
)
"""Words of a language model's configuration that change nothing of it."""


def difference(
    a: Recipe, b: Recipe, called: tuple[str, str] = ("the first", "the second")
) -> str | None:
    """The first word in which two recipes differ, with both values; None where they are equal.

    Names, descriptions, where training started from and where files lie do not count, and a
    language model's configuration counts as transformers completes it.
    """
    one, other = _bare(a), _bare(b)
    if _completed(a) == _completed(b):
        one["language"].pop("config", None)
        other["language"].pop("config", None)
    return _differs(one, other, "", called)


def _completed(recipe: Recipe) -> dict[str, Any]:
    """The language model's configuration with the defaults that transformers knows."""
    whole = recipe.language.hf_config().to_dict()
    return {word: value for word, value in whole.items() if word not in _UNSEEN}


def _bare(recipe: Recipe) -> dict[str, Any]:
    plain: Recipe = config.mapped(recipe, _as_made)
    words = {key: value for key, value in plain.dump().items() if key not in _NAMES}
    if isinstance(words.get("tokenizer"), dict):
        words["tokenizer"].pop("path", None)
    return words


def _as_made(spec: Spec) -> Spec:
    """The part without where it began and how a run holds it."""
    said = [word for word in ("weights", "dtype") if getattr(spec, word, None) is not None]
    return spec.model_copy(update=dict.fromkeys(said)) if said else spec


def _differs(a: Any, b: Any, place: str, called: tuple[str, str]) -> str | None:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys(), key=str):
            inner = f"{place}.{key}" if place else str(key)
            odd = _differs(a.get(key), b.get(key), inner, called)
            if odd:
                return odd
        return None
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        each = (_differs(x, y, f"{place}.{i}", called) for i, (x, y) in pairs)
        return next(filter(None, each), None)
    return None if a == b else f"{place} is {a!r} in {called[0]} and {b!r} in {called[1]}"


def schema() -> dict[str, Any]:
    """JSON schema of recipe files, for editors."""
    whole = config.json_schema(
        Recipe,
        {
            "Step": STEPS,
            "EncoderSpec": ENCODERS,
            "Finish": FINISHES,
            "ConnectorSpec": CONNECTORS,
            "Arrange": ARRANGES,
            "CausalLM": LANGUAGES,
            "TokenizerSpec": TOKENIZERS,
            "Codec": CODECS,
            "Opener": OPENERS,
        },
    )
    definitions = whole.pop("$defs")
    definitions["Template"]["properties"]["base"] = {"type": "string"}
    definitions["Template"] = {"anyOf": [definitions["Template"], {"enum": styles()}]}
    # A recipe over another says what differs, so that only its outermost words can be told.
    words = dict.fromkeys(whole["properties"], True) | {"base": {"type": "string"}}
    return {
        "$defs": definitions,
        "title": whole["title"],
        "type": "object",
        "properties": words,
        "additionalProperties": False,
        "anyOf": [{"required": ["base"]}, whole],
    }
