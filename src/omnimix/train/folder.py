"""The folder of a run: the words it runs with, its lines of metrics, and whether both still fit together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from omnimix import config
from omnimix.compose import recipe as recipes
from omnimix.compose.recipe import Recipe
from omnimix.disk import write_text, writing
from omnimix.errors import RecipeError, TrainError
from omnimix.train.records import describe_run
from omnimix.train.settings import Training

FREE = ("name", "num_workers", "output_dir", "parallel", "trackers")
"""Words of a run that may change on the way, for they change nothing that is learned."""

FREE_OF_STAGE = (
    "name",
    "logging_steps",
    "save_steps",
    "max_dropped",
    "validate",
    "gradient_checkpointing",
)

NAMED = 8
"""Changed words that are named."""


def locked(folder: Path) -> IO[str]:
    """Hold a folder, made where there is none, against a second run, which would write over this one's files.

    Returns:
        What holds it until it is closed.

    Raises:
        TrainError: another process holds it.
        WriteError: it cannot be written to.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a")
    try:
        import fcntl

        # Of this process alone: workers that read data outlive one that was killed, by moments, and hold nothing.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.close()
        raise TrainError(
            "another process trains in this folder",
            where=str(folder),
            hint="wait until it has ended, or name another folder with --out",
        ) from None
    except (ImportError, OSError):
        pass  # Windows, and file systems without locks.
    return file


def leaves(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted paths and values of plain data."""
    pairs = (
        data.items()
        if isinstance(data, Mapping)
        else enumerate(data)
        if isinstance(data, list)
        else None
    )
    if pairs is None or not data:
        yield path, data
        return
    for word, value in pairs:
        yield from leaves(value, f"{path}.{word}" if path else str(word))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`path: old -> new` for every value that is not the same."""
    before, after = dict(leaves(old)), dict(leaves(new))
    absent = "(none)"
    return [
        f"{path}: {before.get(path, absent)} -> {after.get(path, absent)}"
        for path in dict.fromkeys((*before, *after))
        if before.get(path, absent) != after.get(path, absent)
    ]


def _counting(training: Mapping[str, Any]) -> dict[str, Any]:
    """The words that decide what is learned."""
    words = {word: value for word, value in training.items() if word not in FREE}
    stages = words["stages"]
    words["stages"] = [{w: v for w, v in s.items() if w not in FREE_OF_STAGE} for s in stages]
    return words


def changes(folder: Path, training: Training, recipe: Recipe) -> list[str]:
    """What the words of a run's folder say otherwise than those of today.

    Raises:
        TrainError: the folder's words cannot be read.
    """
    found: list[str] = []
    try:
        old = config.validate(Training, config.read_yaml(folder / "training.yaml"), "training.yaml")
        found += differences(_counting(old.dump(True)), _counting(training.dump(True)))
        if (folder / "recipe.yaml").is_file():
            words = recipes.parse(config.read_yaml(folder / "recipe.yaml"), "recipe.yaml").dump(
                True
            )
            found += [f"recipe.{one}" for one in differences(words, recipe.dump(True))]
    except RecipeError as error:
        raise TrainError(
            f"the words that the run began with cannot be read ({error.sentence().rstrip('.')})",
            where=str(folder),
            hint="train into another folder, or add --allow-changes to go on with the words of today",
        ) from None
    return found


def refuse(folder: Path, changed: list[str]) -> TrainError:
    """The error about words that changed."""
    more = f"; and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
    return TrainError(
        f"the run in this folder began with other words: {'; '.join(changed[:NAMED])}{more}",
        where=str(folder),
        hint="name another folder with --out, or add --allow-changes to go on from its checkpoint with the new words",
    )


def write_words(
    folder: Path,
    training: Training,
    recipe: Recipe,
    device: torch.device,
    resumed: bool,
    changed: list[str],
) -> None:
    """What the run runs with."""
    with writing(folder):
        (folder / "training.yaml").write_text(config.to_yaml(training.dump(defaults=True)))
        (folder / "recipe.yaml").write_text(recipes.dump(recipe))
        with (folder / "run.jsonl").open("a") as file:
            file.write(json.dumps(describe_run(training.seed, device, resumed, changed)) + "\n")


def cut_back(file: Path, stage: int, step: int) -> None:
    """Take out the lines of steps behind a checkpoint, and one that was torn: they are written again."""
    if not file.is_file():
        return
    kept = []
    for text in file.read_text().split("\n"):  # a line's text may hold other separators
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if (line["stage"], line["step"]) <= (stage, step):
            kept.append(text)
    write_text(file, "".join(f"{text}\n" for text in kept))
