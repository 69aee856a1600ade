"""`omnimix env`: what omnimix runs on here, and whether that was ever tried."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import platform
import warnings
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnimix import __version__, versions
from omnimix.versions import Package

if TYPE_CHECKING:
    from rich.table import Table


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON.")] = False,
) -> None:
    """Print versions, devices, threads, missing extras, and whether each package was tried."""
    facts = facts_of()
    if as_json:
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    from omnimix.cli.show import wide

    console = wide()
    console.print(f"omnimix {facts['omnimix']}, Python {facts['python']}, {facts['machine']}")
    console.print(f"devices  {', '.join(facts['devices'])}")
    console.print(f"threads  {facts['threads']}")
    console.print(_table(facts["packages"]))
    for line in _remarks(facts):
        console.print(line, markup=False)


def facts_of() -> dict[str, Any]:
    """All that the command prints."""
    found = versions.packages()
    modules = _modules()
    rows = [
        {
            "name": one.name,
            "installed": one.installed,
            "tried": one.tried,
            "inside": one.inside,
            "extras": list(one.extras),
            "fault": _fault(one, modules),
        }
        for one in found
    ]
    return {
        "omnimix": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "devices": _devices(),
        "threads": _threads(),
        "packages": rows,
        "missing_extras": versions.missing_extras(found),
    }


def _modules() -> dict[str, str]:
    """The name under which each installed package is imported."""
    names: dict[str, str] = {}
    for module, owners in metadata.packages_distributions().items():
        for owner in owners:
            name = owner.lower().replace("_", "-")
            own = module.lower().replace("_", "-") == name
            if not module.startswith("_") and (own or name not in names):
                names[name] = module
    return names


def _fault(package: Package, modules: dict[str, str]) -> str | None:
    """What is wrong with a package, found by importing it; None where nothing is."""
    if package.installed is None:
        return None if package.extras else "not installed"
    name = package.name.lower().replace("_", "-")
    return _import(modules.get(name, name.replace("-", "_")))[1]


def _import(name: str) -> tuple[Any, str | None]:
    """A module, or what its import ended with; whatever it says or warns of meanwhile is held back."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            return importlib.import_module(name), None
    except Exception as error:  # a broken package may end in anything
        line = " ".join(str(error).split())[:160]
        return None, f"cannot be imported ({type(error).__name__}: {line or 'no message'})"


def _devices() -> list[str]:
    torch, fault = _import("torch")
    if torch is None:
        return [f"unknown: torch {fault}"]
    found = ["cpu"]
    try:
        for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            about = torch.cuda.get_device_properties(i)
            found.append(f"cuda:{i} {about.name} ({about.total_memory / 2**30:.0f} GiB)")
        if torch.backends.mps.is_available():
            found.append("mps")
    except Exception as error:  # a driver that does not fit
        found.append(f"no other can be asked ({' '.join(str(error).split())[:160]})")
    return found


def _threads() -> str:
    torch, _ = _import("torch")
    cores = f"{os.cpu_count()} cores"
    said = os.environ.get("OMP_NUM_THREADS")
    told = f", OMP_NUM_THREADS={said}" if said else ""
    return f"{cores}{told}" if torch is None else f"{torch.get_num_threads()} of {cores}{told}"


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("package", "installed", "tried", "", "extra"):
        table.add_column(title)
    for row in rows:
        table.add_row(
            row["name"],
            row["installed"] or "-",
            row["tried"] or "any",
            _verdict(row),
            ", ".join(row["extras"]),
        )
    return table


def _verdict(row: dict[str, Any]) -> str:
    if row["fault"]:
        return "[red]fault[/red]"
    return {True: "tried", False: "[yellow]not tried[/yellow]", None: "missing"}[row["inside"]]


def _remarks(facts: dict[str, Any]) -> list[str]:
    """What is to be done, a line each."""
    if not facts["packages"]:
        return ["omnimix is not installed here, so there are no ranges: pip install omnimix"]
    lines = [f"{row['name']}: {row['fault']}" for row in facts["packages"] if row["fault"]]
    lines += [
        f"{row['name']} {row['installed']} lies outside of what was tried: pip install "
        f"'{row['name']}{row['tried']}'"
        for row in facts["packages"]
        if row["inside"] is False
    ]
    lines += [
        f"the extra {extra} is not complete ({', '.join(names)}): pip install 'omnimix[{extra}]'"
        for extra, names in facts["missing_extras"].items()
    ]
    return lines
