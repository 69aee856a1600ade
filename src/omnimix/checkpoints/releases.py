"""Released models by id: what they are made of, and where their files lie.

The lists are data (`families/<family>/releases.yaml`); this module reads them without torch, so that `omnimix models` is there at
once. An id becomes local files through `fetch`: from a folder of models that the user names, else from the
hub, resumable and cached by `huggingface_hub`, never on the wire where `HF_HUB_OFFLINE` is set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnimix import hub
from omnimix.checkpoints.rows import ReleasedEncoder, ReleasedLanguage, ReleaseFamily, Row, Wing
from omnimix.config import read_yaml, validate
from omnimix.errors import CheckpointError, RegistryError
from omnimix.registry import FAMILIES, did_you_mean

if TYPE_CHECKING:
    from omnimix.checkpoints.base import Recognised

ROOT = "OMNIMIX_MODELS"
"""Environment variable: a folder with released models, looked into before the hub."""


@dataclass(frozen=True)
class Released:
    """A released model.

    Attributes:
        id: what `omnimix.load` takes.
        title, names: its name in print, and further names it is found by.
        family: its checkpoint family, a row of `registry.CHECKPOINTS` where a reader exists.
        about: what its family's releases share.
        encoder, language: its parts.
        ids: the family's own names of the two.
        connector, resize: words of the family for the connector and the preparation of pictures.
        data, epochs, procedure: what it was trained on and how, where published.
        parameters, bytes: of the release's own files; None where unknown.
        repo: on the hub.
        folder: inside the repository; empty where the release is the whole of it.
        files: patterns inside the folder, each of which must be there.
        parts: hub ids of what the release does not hold, by the part's name.
        note: what a user should know.
    """

    id: str
    title: str
    names: tuple[str, ...]
    family: str
    about: ReleaseFamily
    encoder: ReleasedEncoder
    language: ReleasedLanguage
    ids: tuple[str, str]
    connector: str
    resize: str | None
    data: str | None
    epochs: float | None
    procedure: str | None
    parameters: int | None
    bytes: int | None
    repo: str
    folder: str
    files: tuple[str, ...]
    parts: Mapping[str, str]
    note: str | None


@dataclass(frozen=True)
class Local:
    """Where a release lies on this machine.

    Attributes:
        folder: what a family's reader opens.
        parts: local places of what the release does not hold; the reader looks for the others itself.
        recognised: what a family said about the folder, where one was asked already.
    """

    folder: Path
    parts: Mapping[str, Path]
    recognised: Recognised | None = None


@cache
def _all() -> dict[str, Released]:
    known: dict[str, Released] = {}
    for path in wings():
        wing = validate(Wing, read_yaml(path), f"{path.parent.name}/{path.name}")
        for family, rows in wing.releases.items():
            for row in rows:
                assert row.id not in known, f"{row.id} stands twice, the second time in {path}"
                known[row.id] = _released(row, family, wing)
    return known


def wings() -> list[Path]:
    """The file of every family that has released models."""
    return sorted(FAMILIES.glob("*/releases.yaml"))


def _released(row: Row, family: str, wing: Wing) -> Released:
    about, encoder = wing.families[family], wing.encoders[row.encoder]
    language = wing.languages[row.language]
    size = row.bytes
    if size is None and row.parameters is not None and about.width is not None:
        size = about.width * row.parameters
    parts = dict(encoder.parts)
    if language.hub is not None:
        parts["llm"] = language.hub
    return Released(
        id=row.id,
        title=row.title,
        names=row.names,
        family=family,
        about=about,
        encoder=encoder,
        language=language,
        ids=(row.encoder, row.language),
        connector=row.connector,
        resize=row.resize,
        data=row.data,
        epochs=row.epochs,
        procedure=row.procedure or about.procedure,
        parameters=row.parameters,
        bytes=size,
        repo=row.repo or about.repo,
        folder=row.folder or about.folder.format(id=row.id),
        files=row.files or about.files,
        parts=parts,
        note=row.note,
    )


def releases(family: str | None = None, grep: str | None = None) -> list[Released]:
    """Released models in the order of their families.

    Args:
        family: only of one family.
        grep: only those with this text somewhere in their description, in any case.

    Raises:
        RegistryError: an unknown family.
    """
    found = list(_all().values())
    if family is not None:
        known = list(dict.fromkeys(release.family for release in found))
        if family not in known:
            raise RegistryError(f"unknown family {family!r}", hint=did_you_mean(family, known))
        found = [release for release in found if release.family == family]
    if grep:
        found = [release for release in found if grep.lower() in " ".join(_texts(release)).lower()]
    return found


def _texts(release: Released) -> Iterator[str]:
    for value in describe(release.id).values():
        yield from map(str, value if isinstance(value, list | dict) else [value])


def available() -> list[str]:
    """Ids of all released models."""
    return list(_all())


def available_names() -> list[tuple[str, list[str]]]:
    """Each id with the names it is also found by."""
    return [(release.id, list(release.names)) for release in _all().values()]


def lookup(id_or_name: str) -> Released | None:
    """The release of an id, of one of its other names, or of its place on the hub (`org/repo`, or
    `org/repo/folder` where a repository holds several); None where there is none."""
    known = _all()
    if id_or_name in known:
        return known[id_or_name]

    def called(release: Released) -> tuple[str, ...]:
        return (
            *release.names,
            release.title,
            "/".join(filter(None, (release.repo, release.folder))),
        )

    return next((r for r in known.values() if id_or_name in called(r)), None)


def find(id_or_name: str) -> Released:
    """The release of an id or name.

    Raises:
        RegistryError: unknown, with the nearest known one.
    """
    found = lookup(id_or_name)
    if found is None:
        names = [*available(), *(name for _, names in available_names() for name in names)]
        hint = did_you_mean(id_or_name, names)
        raise RegistryError(
            f"unknown release {id_or_name!r}",
            hint=hint if hint.startswith("did") else "`omnimix models` lists them",
        )
    return found


def describe(id_or_name: str) -> dict[str, Any]:
    """What a released model is made of, as plain data.

    Raises:
        RegistryError: unknown, with the nearest known one.
    """
    found = find(id_or_name)
    encoder = found.encoder.title
    if found.encoder.size is not None:
        encoder += f" @ {found.encoder.size}px"
    return {
        "id": found.id,
        "name": found.title,
        "names": list(found.names),
        "family": found.family,
        "encoder": encoder,
        "resize": found.resize,
        "connector": found.connector,
        "language": found.language.title,
        "procedure": found.procedure,
        "data": found.data,
        "epochs": found.epochs,
        "parameters": found.parameters,
        "bytes": found.bytes,
        "licence": found.about.licence,
        "language_licence": found.language.licence,
        "paper": found.about.paper,
        "arxiv": found.about.arxiv,
        "repo": found.repo,
        "folder": found.folder,
        "parts": dict(found.parts),
        "note": found.note,
    }


def fetch(release: Released, root: str | Path | None = None) -> Local:
    """The local files of a release.

    Args:
        root: a folder with models; default is what the environment variable `OMNIMIX_MODELS` names. In it a
            repository may lie as `org/name`, as `name`, or as in the hub's cache
            (`models--org--name/snapshots/...`); a release that is a folder of its repository may also lie
            right there under its id.

    Raises:
        CheckpointError: neither in the folder nor to be had from the hub, with the way out.
    """
    root = root if root is not None else os.environ.get(ROOT) or None
    if root is None:
        return Local(_from_hub(release), {})
    place = Path(root)
    if not place.is_dir():
        raise CheckpointError(
            "the folder of models does not exist", where=str(place), hint=f"mend {ROOT}"
        )
    found: dict[str, Path] = {}
    for part, repo in release.parts.items():
        for folder in _places(place, repo):
            if folder.is_dir() and any(folder.iterdir()):
                found.setdefault(part, folder)
    for folder in _candidates(place, release):
        if folder.is_dir() and not _absent(folder, release.files):
            return Local(folder, found)
    return Local(_from_hub(release, place), found)


def _candidates(root: Path, release: Released) -> Iterator[Path]:
    for repo in _places(root, release.repo):
        yield repo / release.folder
    if release.folder:
        yield root / release.folder
        yield root / Path(release.folder).name


def _places(root: Path, repo: str) -> Iterator[Path]:
    """Where a repository may lie below a folder of models."""
    organisation, _, name = repo.partition("/")
    yield root / organisation / name
    yield root / name
    cached = root / f"models--{organisation}--{name}"
    main = cached / "refs" / "main"
    if main.is_file():
        yield cached / "snapshots" / main.read_text(encoding="utf-8").strip()
    yield from sorted((cached / "snapshots").glob("*"))


def _absent(folder: Path, files: tuple[str, ...]) -> list[str]:
    """The patterns that no file in the folder answers to."""
    return [pattern for pattern in files if not any(folder.glob(pattern))]


def _from_hub(release: Released, root: Path | None = None) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    inside = f"{release.folder}/" if release.folder else ""
    wanted = [f"{inside}{pattern}" for pattern in release.files]
    offline = bool(constants.HF_HUB_OFFLINE)
    where = f"{release.id} ({release.repo}{f', folder {release.folder}' if inside else ''})"
    looked = f"not below {root}, and " if root is not None else ""
    size = f", {release.bytes / 1e9:.0f} GB" if release.bytes else ""
    try:
        snapshot = snapshot_download(
            release.repo, allow_patterns=wanted, local_files_only=offline, **hub.words()
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        line = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        state = "the hub is switched off by HF_HUB_OFFLINE and its cache has no such model"
        raise CheckpointError(
            f"the files cannot be had: {looked}{state if offline else line.strip().rstrip('.')}",
            where=where,
            hint=f"fetch them where there is a network{size}, or name a folder of models in {ROOT}",
        ) from None
    folder = Path(snapshot) / release.folder
    absent = _absent(folder, release.files)
    if absent:
        state = "the hub is switched off by HF_HUB_OFFLINE" if offline else "the hub has them not"
        raise CheckpointError(
            f"{len(absent)} of {len(release.files)} files are missing in the cache: "
            f"{looked}{absent[0]} is not there, and {state}",
            where=where,
            hint=f"fetch them where there is a network{size}, or name a folder of models in {ROOT}",
        )
    return folder
