"""Folders of training runs: their checkpoints, and whether those are whole."""

from __future__ import annotations

import json
from pathlib import Path

from omnimix.disk import digest
from omnimix.errors import CheckpointError

SUMS = "checksums.json"


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(path for path in folder.glob("stage-*-step-*") if (path / "state.json").is_file())


def damage(place: Path) -> str | None:
    """What is wrong with a checkpoint's files, by their checksums; None where nothing is."""
    try:
        sums = json.loads((place / SUMS).read_text())
        for name, told in sums.items():
            if not (place / name).is_file():
                return f"{name} is missing"
            if digest(place / name) != told:
                return f"{name} has another checksum than was written"
    except FileNotFoundError:
        return f"{SUMS} is missing"
    except (OSError, ValueError, AttributeError) as error:
        return f"{SUMS} cannot be read: {error}"
    return None


def whole_before(place: Path) -> Path | None:
    """The newest whole checkpoint of a run that is older than this one."""
    older = [path for path in checkpoints(place.parent) if path < place]
    return next((path for path in reversed(older) if damage(path) is None), None)


def check_is_no_run(folder: Path) -> None:
    """Refuse to take for a model what a run goes on from.

    Raises:
        CheckpointError: the folder of a run or one of its checkpoints; says where the model lies or how to come by
            one, which checkpoint is damaged, and which is whole.
    """
    run = folder if (done := checkpoints(folder)) else folder.parent
    own = bool(done) or folder in (done := checkpoints(run))
    for place in (folder, run) if own else (folder,):
        if (place / "model" / "recipe.yaml").is_file():
            raise CheckpointError(
                "no model: this is of a training run",
                where=str(folder),
                hint=f"its model is {place / 'model'}",
            )
    if not own:
        return
    what = "the folder of a training run" if run == folder else "a checkpoint of a training run"
    newest = done[-1]
    said, hint = f"goes on from {newest.name}, which is whole", "the same `omnimix train`"
    if wrong := damage(newest):
        said, hint = "can end in no model; train into another folder", "the run"
        if whole := whole_before(newest):
            said = f"goes on from {whole.name}, which is whole"
            hint = "the same `omnimix train` with --fall-back"
        what += f", whose newest checkpoint {newest.name} is damaged ({wrong})"
    raise CheckpointError(
        f"no model: this is {what}, and the run has not ended",
        where=str(folder),
        hint=f"{hint} {said}",
    )
