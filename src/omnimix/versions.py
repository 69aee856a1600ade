"""What omnimix runs on: the installed packages beside the ranges that were tried.

The ranges are those of `pyproject.toml`, read from the metadata of the installed omnimix itself. Nothing
here imports a package in question, so that it works where one is missing or broken.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement

OWN = "omnimix"
TOOLS = "dev"
"""The extra with the tools of those who work on omnimix; it is nobody's need who uses it."""


class UntriedVersionWarning(UserWarning):
    """An installed package lies outside of the range that omnimix was tried with."""


@dataclass(frozen=True)
class Package:
    """One package that omnimix needs, or one of its extras.

    Attributes:
        tried: the range, as in `>=5.23,<5.25`; empty where any version will do.
        installed: the version; None where the package is not there.
        extras: the extras that install it; empty where omnimix itself needs it.
    """

    name: str
    tried: str
    installed: str | None
    extras: tuple[str, ...] = ()

    @property
    def inside(self) -> bool | None:
        """Whether the version lies in the range; None where the package is not there."""
        from packaging.specifiers import SpecifierSet
        from packaging.version import InvalidVersion

        if self.installed is None:
            return None
        try:
            return SpecifierSet(self.tried).contains(self.installed, prereleases=True)
        except InvalidVersion:
            return False


def packages() -> list[Package]:
    """What omnimix needs, then what its extras need, by name; empty where omnimix is not installed."""
    found: dict[str, Package] = {}
    for asked, extra in sorted(_asked(), key=lambda pair: (pair[1], pair[0].name.lower())):
        known = found.get(asked.name)
        if known is None:
            own = () if not extra else (extra,)
            found[asked.name] = Package(asked.name, str(asked.specifier), version(asked.name), own)
        elif extra and known.extras and extra not in known.extras:
            extras = (*known.extras, extra)
            found[asked.name] = Package(known.name, known.tried, known.installed, extras)
    return list(found.values())


def missing_extras(found: Iterable[Package]) -> dict[str, list[str]]:
    """For each extra that is not complete, the packages that it would install."""
    missing: dict[str, list[str]] = {}
    for package in found:
        for extra in package.extras if package.installed is None else ():
            missing.setdefault(extra, []).append(package.name)
    return missing


def untried(found: Iterable[Package]) -> list[Package]:
    """Those that are installed and lie outside of their range."""
    return [package for package in found if package.inside is False]


@cache
def warn_of_untried() -> None:
    """One warning a process where packages lie outside of the ranges that were tried."""
    outside = untried(packages())
    if outside:
        said = ", ".join(f"{one.name} {one.installed} (tried: {one.tried})" for one in outside)
        warnings.warn(
            f"omnimix was not tried with {said}; see `omnimix env`, and constraints.txt of the "
            "repository for versions that are known to work",
            UntriedVersionWarning,
            stacklevel=2,
        )


def version(name: str) -> str | None:
    """The installed version of a package; None where there is none, or none that can be read."""
    try:
        found: str | None = metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
    return found


def _asked() -> Iterator[tuple[Requirement, str]]:
    """Each requirement of omnimix for this machine, with the extra that makes it one (or nothing)."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires(OWN) or []
        extras = metadata.metadata(OWN).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return
    for line in lines:
        asked = Requirement(line)
        if asked.name == OWN:
            continue
        if asked.marker is None or asked.marker.evaluate({"extra": ""}):
            yield asked, ""
            continue
        for extra in extras:
            if extra != TOOLS and asked.marker.evaluate({"extra": extra}):
                yield asked, extra
