"""Configuration as data: frozen pydantic models, discriminated by `kind`, read from YAML.

`Spec` is the base of every part's settings. `part(table)` makes a field that holds any row of a registry;
`read_yaml`, `with_base`, `with_overrides` and `validate` turn a file into a checked model, with errors
that name the YAML path and the nearest known word.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from omnimix.errors import RecipeError, RegistryError, kind_of, reason
from omnimix.registry import Registry, did_you_mean
from omnimix.renamed import new_name, new_value

Held: TypeAlias = Literal["float32", "bfloat16"]
"""A type that a frozen part's weights may be held in."""


class Spec(BaseModel):
    """Settings of one part: immutable, comparable, hashable by content, no unknown words, all numbers finite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False
    )

    part_of: ClassVar[str] = ""

    _called: str | None = PrivateAttr(default=None)
    """The name of its row where that is no row of a table but `module:Class`."""

    def row_name(self) -> str:
        """The word `kind` that makes it again."""
        return self._called or str(getattr(self, "kind", ""))

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_words(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            for word, said in value.items():
                renamed = new_value(cls.__name__, str(word), said)
                if word in cls.model_fields and renamed is None:
                    continue
                renamed = renamed or new_name((one.__name__ for one in cls.__mro__), str(word))
                unknown = f"unknown word {word!r}; {did_you_mean(str(word), cls.model_fields)}"
                context: dict[str, Any] = {"message": renamed or unknown}
                if renamed:
                    context["path"] = (str(word),)
                raise PydanticCustomError("unknown_word", "{message}", context)
        return value

    def dump(self, defaults: bool = False) -> dict[str, Any]:
        """Plain data that validates to an equal model.

        Args:
            defaults: write them out, as everything that is saved does, so that a default that changes later
                changes no saved model. Without them the data is short; `kind` is kept at every depth.
        """
        data = self.model_dump(mode="json", exclude_defaults=not defaults)
        kinds: dict[str, Any] = _with_kinds(self, data)
        return kinds


def _with_kinds(spec: BaseModel, data: Any) -> Any:
    """Put `kind` (a default, so left out by pydantic) back in front at every depth."""
    if "kind" in type(spec).model_fields:
        assert isinstance(spec, Spec)
        data = {"kind": spec.row_name(), **{k: v for k, v in data.items() if k != "kind"}}
    for name in list(data):
        if name in type(spec).model_fields:
            data[name] = _kinds_inside(getattr(spec, name), data[name])
    return data


def _kinds_inside(value: Any, data: Any) -> Any:
    if isinstance(value, BaseModel):
        return _with_kinds(value, data)
    if isinstance(value, list | tuple):
        return [_kinds_inside(v, d) for v, d in zip(value, data, strict=True)]
    if isinstance(value, Mapping):
        return {key: _kinds_inside(value[key], data[key]) for key in data}
    return data


def mapped(value: Any, change: Callable[[Spec], Spec]) -> Any:
    """The same value with every `Spec` inside changed, the innermost first."""
    if isinstance(value, Spec):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        new = {name: mapped(old, change) for name, old in fields.items()}
        moved = {name: one for name, one in new.items() if one is not fields[name]}
        return change(value.model_copy(update=moved) if moved else value)
    if isinstance(value, Mapping):
        inner = {key: mapped(one, change) for key, one in value.items()}
        return inner if any(inner[key] is not value[key] for key in inner) else value
    if isinstance(value, tuple):
        items = tuple(mapped(one, change) for one in value)
        return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
    return value


def part(table: Registry) -> BeforeValidator:
    """A validator for a field that holds any row of `table`, chosen by its word `kind`.

    A bare string is short for `{kind: <string>}`; where the table has one row of its own, `kind` may be left out.
    """

    def resolve(value: Any) -> Any:
        if isinstance(value, BaseModel):
            return value
        if isinstance(value, str):
            value = {"kind": value}
        if isinstance(value, Mapping) and "kind" not in value and table.only is not None:
            value = {"kind": table.only, **value}
        if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
            message = f"a {table.what} needs a word 'kind'; {did_you_mean('', table)}"
            raise PydanticCustomError("no_kind", "{message}", {"message": message})
        target = value["kind"]
        try:
            cls = table.load(target)
        except RegistryError as error:
            message = f"{error.what}; {error.hint}"
            raise PydanticCustomError(
                "unknown_kind", "{message}", {"message": message, "path": ("kind",)}
            ) from None
        own = ":" in value["kind"]
        if own:
            value = _without_kind(cls, value)
        made = _made(cls, value)
        if own and isinstance(made, Spec):
            made._called = target
        return made

    return BeforeValidator(resolve)


def or_table(cls: type[BaseModel]) -> BeforeValidator:
    """A validator for a field with a short form beside its table: a table is judged as one, and as nothing else."""
    return BeforeValidator(lambda value: _made(cls, value) if isinstance(value, Mapping) else value)


def _made(cls: type[BaseModel], value: Any) -> BaseModel:
    try:
        return cls.model_validate(value)
    except ValidationError as error:
        path, message = first_error(error)
        raise PydanticCustomError("part", "{message}", {"message": message, "path": path}) from None


def _without_kind(cls: type[BaseModel], value: Mapping[str, Any]) -> dict[str, Any]:
    """The words for a class that is named in place of a row, which has a `kind` of its own or none."""
    field = cls.model_fields.get("kind")
    words = {word: one for word, one in value.items() if word != "kind"}
    return {"kind": value["kind"], **words} if field and field.is_required() else words


def first_error(error: ValidationError) -> tuple[tuple[str | int, ...], str]:
    """Path and message of the first problem, looking through nested parts."""
    problem = error.errors()[0]
    context = problem.get("ctx", {})
    inner = tuple(context.get("path", ()))
    message = context.get("message") or problem["msg"]
    if problem["type"] == "missing":
        message = "this word is required"
    return (*problem["loc"], *inner), str(message)


M = TypeVar("M", bound=BaseModel)


def validate(model: type[M], data: Any, where: str) -> M:
    """Check plain data against a model.

    Raises:
        RecipeError: names file and YAML path of the first problem.
    """
    if not isinstance(data, Mapping):
        raise RecipeError(
            f"a {model.__name__.lower()} is a table of words, not {kind_of(data)}",
            where=where,
        )
    try:
        return model.model_validate(data)
    except ValidationError as error:
        path, message = first_error(error)
        place = ".".join(str(step) for step in path)
        raise RecipeError(message, where=f"{where}: {place}" if place else where) from None


_DEEPEST = 64
_MOST_WORDS = 200_000


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses, at its place, what YAML would drop, copy without end or not finish.

    A key written twice, depth, aliases that stand for more words than any file of ours has, and values that Python
    cannot make (a date that is none, a list as a key, a number of thousands of digits).
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._words: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _no_yaml(f"deeper than {_DEEPEST} levels", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None and isinstance(event, yaml.AliasEvent):
            if id(node) not in self._words:
                raise _no_yaml("an alias stands inside what it is an alias of", event.start_mark)
        elif node is not None:
            inner = [] if isinstance(node, yaml.ScalarNode) else list(node.value)
            if isinstance(node, yaml.MappingNode):
                inner = list(chain.from_iterable(node.value))
            # A long text counts as several words: an alias of it is as long when it is written.
            words = 1 if inner else 1 + len(node.value) // 1000
            words = self._words[id(node)] = words + sum(self._words[id(one)] for one in inner)
            if words > _MOST_WORDS:
                what = f"its aliases stand for more than {_MOST_WORDS} words"
                raise _no_yaml(what, event.start_mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
            what = f"a value that cannot be read ({str(error)[:80]})"
            raise _no_yaml(what, node.start_mark) from None


def _no_yaml(what: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=mark)


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the word {key!r} stands twice", key_node.start_mark
            )
        seen.add(key)
    return dict(loader.construct_pairs(node, deep=True))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse_yaml(text: str, where: str) -> Any:
    """YAML text to plain data; a syntax error names line and column."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}: line {mark.line + 1}, column {mark.column + 1}" if mark else where
        problem = getattr(error, "problem", None) or "not YAML"
        raise RecipeError(str(problem), where=place, hint="mend the YAML") from None


def read_yaml(path: str | Path) -> Any:
    """A YAML file as plain data."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the file ({reason(error)})", where=str(path)) from None
    return parse_yaml(text, str(path))


def to_yaml(data: Any) -> str:
    """Plain data as YAML in the order it was written."""
    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100))


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`: tables merge word by word, everything else is replaced.

    A table that names another `kind` replaces the one below whole, since its words differ.
    """
    result = dict(below)
    for word, value in above.items():
        old = result.get(word)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        if both and value.get("kind", old.get("kind")) == old.get("kind"):  # type: ignore[union-attr]
            result[word] = merge(old, value)  # type: ignore[arg-type]
        else:
            result[word] = value
    return result


def with_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply `dotted.path=value` words; values are YAML, list places are numbers.

    Raises:
        RecipeError: an override without `=`, or a path through something that is no table.
    """
    result: dict[str, Any] = typing.cast("dict[str, Any]", plain_copy(data))
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            raise RecipeError(
                "an override is written path.to.word=value", where=override, hint="add the value"
            )
        steps = path.split(".")
        place: Any = result
        for step in steps[:-1]:
            if isinstance(place, dict) and step not in place:
                place[step] = {}
            place = _inside(place, step, override)
        value = parse_yaml(text, override)
        if isinstance(place, list):
            _inside(place, steps[-1], override)
            place[int(steps[-1])] = value
        elif isinstance(place, dict):
            place[steps[-1]] = value
        else:
            raise RecipeError(f"{'.'.join(steps[:-1])} is no table", where=override)
    return result


def _inside(place: Any, step: str, override: str) -> Any:
    if isinstance(place, list):
        if not step.isdigit() or int(step) >= len(place):
            raise RecipeError(f"{step!r} is no place in a list of {len(place)}", where=override)
        return place[int(step)]
    if not isinstance(place, dict):
        raise RecipeError(f"there is nothing inside before {step!r}", where=override)
    return place[step]


def plain_copy(data: Any) -> Any:
    """Plain data that may be changed without a change of the given."""
    if isinstance(data, Mapping):
        return {key: plain_copy(value) for key, value in data.items()}
    return [plain_copy(value) for value in data] if isinstance(data, list | tuple) else data


def json_schema(model: type[BaseModel], tables: Mapping[str, Registry]) -> dict[str, Any]:
    """JSON schema for editors, with every registered row of each part as one alternative.

    Args:
        model: the top model.
        tables: for each base class of parts (by name), the table whose rows may stand there.
    """
    schema = model.model_json_schema()
    definitions: dict[str, Any] = schema.setdefault("$defs", {})
    pending = [name for name in tables if name in definitions]
    done: set[str] = set()
    while pending:
        name = pending.pop()
        done.add(name)
        choices = []
        for row in tables[name]:
            inner = tables[name].load(row).model_json_schema()
            for key, value in inner.pop("$defs", {}).items():
                definitions.setdefault(key, value)
                if key in tables and key not in done and key not in pending:
                    pending.append(key)
            key = f"{name}.{row}"
            definitions[key] = inner
            choices.append({"$ref": f"#/$defs/{key}"})
        # A bare string is short for the row of that name.
        definitions[name] = {"anyOf": [*choices, {"enum": list(tables[name])}]}
    return schema
