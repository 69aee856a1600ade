"""Prints constraints.txt: what omnimix and all its extras pulled into the running environment.

    .venv-newest/bin/python tools/pins.py > constraints.txt        (make pins)

Names and versions only, so that the pins hold on any machine: a local suffix (`+cpu`) names a build, and
`torch==2.13.0` is met by every build of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

OWN = "omnimix"
HEAD = """\
# What `make demo` and `make test` install. Written by `make pins` from an environment that passed
# `make test-newest`; not to be edited by hand. docs/versions.md says how it is renewed."""


def requirements(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    """What a package asks for on this machine, with some of its extras."""
    for line in metadata.requires(name) or []:
        asked = Requirement(line)
        if asked.marker is None or any(
            asked.marker.evaluate({"extra": extra}) for extra in (extras or {""}) | {""}
        ):
            yield asked


def closure(name: str, extras: frozenset[str]) -> dict[str, str]:
    """Every package that one pulls in, with its installed version.

    Raises:
        PackageNotFoundError: one of them is not installed.
    """
    found: dict[str, str] = {}
    waiting, seen = [(name, extras)], set()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        for asked in requirements(*one):
            key = canonicalize_name(asked.name)
            found[key] = Version(metadata.version(key)).public
            waiting.append((key, frozenset(asked.extras)))
    found.pop(canonicalize_name(name), None)
    return found


def main() -> None:
    every = frozenset(metadata.metadata(OWN).get_all("Provides-Extra") or [])
    rows = [f"{name}=={version}" for name, version in sorted(closure(OWN, every).items())]
    sys.stdout.write("\n".join([HEAD, *rows]) + "\n")


if __name__ == "__main__":
    main()
