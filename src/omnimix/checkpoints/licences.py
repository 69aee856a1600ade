"""Licences of the parts that a model is made of, and where two of them cannot both be kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from omnimix.checkpoints.releases import wings
from omnimix.config import Spec, read_yaml, validate

TABLE = Path(__file__).parent / "licences.yaml"


class Licence(Spec):
    """What a licence asks.

    Attributes:
        hub: its name on the hub.
        commercial: whether a business may use what is under it.
        alike: whether what is made of it must be under the same licence.
        terms: what it asks of the whole beyond naming the authors.
    """

    hub: str
    commercial: bool = True
    alike: bool = False
    terms: str = ""


class _Table(Spec):
    licences: dict[str, Licence]
    parts: dict[str, str]


@cache
def _table() -> _Table:
    table = validate(_Table, read_yaml(TABLE), TABLE.name)
    own = {part: name for path in wings() for part, name in _own(path).items()}
    return table.model_copy(update={"parts": {**table.parts, **own}})


def _own(path: Path) -> dict[str, str]:
    """Licences of the parts that a family keeps beside its releases."""
    return dict(read_yaml(path).get("licences") or {})


def known() -> Mapping[str, Licence]:
    """All licences of the table by name."""
    return _table().licences


def of_part(hub_id: str) -> str | None:
    """The licence of a part; None where the table does not know it."""
    parts = _table().parts
    exact = parts.get(hub_id)
    return exact or next((name for key, name in parts.items() if fnmatchcase(hub_id, key)), None)


def named(word: str) -> str | None:
    """A licence by its name here or on the hub, in any case."""
    for name, licence in known().items():
        if word.lower() in (name.lower(), licence.hub.lower()):
            return name
    return None


def conflicts(parts: Mapping[str, str | None], whole: str | None = None) -> Iterator[str]:
    """Sentences about licences that cannot all be kept, or that nobody knows.

    Args:
        parts: the licence of each part by the part's id.
        whole: the licence that the model is to be given.
    """
    held = {part: name for part, name in parts.items() if name in known()}
    for part, name in parts.items():
        if part not in held:
            yield f"the licence of {part} is not known ({name or 'none stated'}): look it up before others use this"
    for part, name in held.items():
        licence = known()[name or ""]
        asked = known().get(whole or "")
        if whole is not None and whole != name:
            if licence.alike:
                yield f"{part} is under {name}: what is made of it cannot be given under {whole}"
            elif not licence.commercial and (asked is None or asked.commercial):
                yield f"{part} is under {name}, for no commercial use: {whole} would allow that"
            elif licence.terms and asked is not None and not asked.terms:
                yield f"{part} is under {name}, which {licence.terms}: {whole} does not say so"
        if not licence.alike:
            continue
        for other, second in held.items():
            if second != name and known()[second or ""].terms:
                yield (
                    f"{part} ({name}) and {other} ({second}) cannot both be kept: each wants the whole "
                    "under its own terms"
                )


def fitting(parts: Mapping[str, str | None]) -> str | None:
    """The licence that the whole can be given: the strictest of its parts; None where they disagree."""
    if not parts or any(name not in known() for name in parts.values()):
        return None
    strict = {name for name in parts.values() if name and _strict(known()[name])}
    if len(strict) > 1:
        return None
    return next(iter(strict), None) or sorted({name for name in parts.values() if name})[0]


def _strict(licence: Licence) -> bool:
    return licence.alike or bool(licence.terms) or not licence.commercial
