"""`omnimix push`: a model folder goes to the hub, with a card."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from omnimix.errors import CheckpointError, OmnimixError

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_LEFT = re.compile(
    r"(^|/)([._].*|checkpoint-\d+|__pycache__|optimizer.*|scheduler.*|rng_state.*|.*\.(log|tmp|lock))(/|$)"
)
"""Files and folders that stay at home: hidden ones, and those that only go on with a training run."""


def command(
    folder: Annotated[Path, typer.Argument(help="The folder of a model.")],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the hub.")],
    private: Annotated[bool, typer.Option("--private", help="Nobody else sees it.")] = False,
    licence: Annotated[
        str | None, typer.Option(help="Of the whole model; default what its parts allow.")
    ] = None,
    made_from: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="PART=ID", help="A hub id that a part was made from."),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="Another hub; default HF_ENDPOINT or huggingface.co.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the card and the files, send nothing.")
    ] = False,
) -> None:
    """Put a model on the hub, with a card that is made from its recipe, training and scores."""
    from omnimix.checkpoints import licences
    from omnimix.cli.card import card
    from omnimix.cli.guard import places_of
    from omnimix.cli.parts import count
    from omnimix.cli.show import of_model
    from omnimix.generate import folder as folders

    if not _REPO.fullmatch(repo):
        raise OmnimixError(f"{repo!r} names no repository", hint="write OWNER/NAME")
    found = folders.find(folder)
    recipe = of_model(found)
    if licence is not None:
        licence = licences.named(licence) or licence
    text, problems = card(found, recipe, count(recipe), repo, places_of(made_from or ()), licence)
    sent = list(files(found))
    for problem in problems:
        typer.echo(f"licences: {problem}", err=True)
    if dry_run:
        typer.echo(text)
        for path in [*sent, found / "README.md"] if "README.md" not in names(found, sent) else sent:
            size = len(text.encode()) if path.name == "README.md" else path.stat().st_size
            typer.echo(f"{path.relative_to(found).as_posix()}  {size} bytes")
        return
    typer.echo(f"pushed: {send(found, sent, text, repo, private, endpoint)}")


def names(folder: Path, paths: list[Path]) -> list[str]:
    """Names of files as they stand in the repository."""
    return [path.relative_to(folder).as_posix() for path in paths]


def files(folder: Path) -> Iterator[Path]:
    """The files of a model folder that are sent, in order of their names.

    Raises:
        CheckpointError: a link that leads out of the folder.
    """
    inside = folder.resolve()
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or _LEFT.search(path.relative_to(folder).as_posix()):
            continue
        if not path.resolve().is_relative_to(inside):
            raise CheckpointError(
                "the file is a link that leads out of the folder",
                where=str(path),
                hint="copy the file here, or take the link away",
            )
        yield path


def send(
    folder: Path, paths: list[Path], text: str, repo: str, private: bool, endpoint: str | None
) -> str:
    """Create the repository and commit everything at once; returns where the commit is seen.

    Raises:
        OmnimixError: no token, one that the hub refuses, or a hub that cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.utils.tqdm import disable_progress_bars

    token = get_token()
    if not token:
        raise OmnimixError(
            "there is no token for the hub", hint="run hf auth login, or set HF_TOKEN"
        )
    disable_progress_bars()
    hub = HfApi(endpoint=endpoint, token=token)
    adding = [
        CommitOperationAdd(name, str(path))
        for name, path in zip(names(folder, paths), paths, strict=True)
        if name != "README.md"
    ]
    adding.append(CommitOperationAdd("README.md", text.encode()))
    try:
        hub.create_repo(repo, private=private or None, exist_ok=True)
        done: Any = hub.create_commit(repo, adding, commit_message="Model pushed with omnimix")
    except Exception as error:
        raise _told(error, repo, hub.endpoint) from error
    return str(done.commit_url)


def _told(error: Exception, repo: str, endpoint: str) -> Exception:
    """What the hub or the way there answered, as a sentence; anything else stays what it is."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    cause: BaseException | None = error
    while cause is not None and not isinstance(
        cause, HfHubHTTPError | OfflineModeIsEnabled | OSError
    ):
        if type(cause).__module__.startswith(("httpx", "httpcore")):
            break
        cause = cause.__cause__
    if cause is None:
        return error
    if isinstance(cause, HfHubHTTPError) and cause.response is not None:
        status = cause.response.status_code
        if status in (401, 403):
            return OmnimixError(
                f"the hub refuses the token ({status})",
                where=repo,
                hint="take one that may write there: hf auth login, or HF_TOKEN",
            )
        lines = str(cause.server_message or cause).splitlines()
        return OmnimixError(f"the hub answers {status} ({lines[0].rstrip('.')})", where=repo)
    if isinstance(cause, OfflineModeIsEnabled):
        return OmnimixError("HF_HUB_OFFLINE forbids it", where=repo, hint="unset it to push")
    reason = (str(cause).splitlines() or [type(cause).__name__])[0].rstrip(".")
    return OmnimixError(
        f"the hub cannot be reached ({reason})",
        where=endpoint,
        hint="check the network, or name another hub with --endpoint",
    )
