"""Which proof lies in a folder, and whether it holds: readings are rows of `registry.READINGS`."""

from __future__ import annotations

import abc
from pathlib import Path

from omnimix.convert.report import Verdict
from omnimix.errors import CheckpointError
from omnimix.registry import READINGS

GOLDEN = "golden"
"""The row of who reads golden cases; the checkout's package `golden/` brings it."""

DEVELOPERS = "golden cases are read in a checkout of omnimix: `pip install -e golden` there"
"""What a user is told who has the library alone."""


class Reading(abc.ABC):
    """One kind of proof that a folder may carry."""

    @abc.abstractmethod
    def recognise(self, folder: Path) -> bool:
        """Whether the folder carries this kind of proof, judged by the names of its files."""

    @abc.abstractmethod
    def verify(self, folder: Path, stop: bool) -> Verdict:
        """Compare the folder with the numbers that it carries.

        Args:
            stop: end behind the first stage that differs.

        Raises:
            CheckpointError: files that cannot be read, or a model that cannot be loaded.
        """


def verify(path: str | Path, stop: bool = True) -> Verdict:
    """Check a folder that carries golden numbers.

    Args:
        stop: end behind the first stage that differs; without it everything is compared.

    Raises:
        CheckpointError: nothing to check there, or files that cannot be read.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(
            "there is no such folder", where=str(path), hint="name a case or model folder"
        )
    readings: list[Reading] = [READINGS.load(name)() for name in READINGS]
    for reading in readings:
        if reading.recognise(folder):
            return reading.verify(folder, stop)
    raise CheckpointError(
        "no golden numbers lie there",
        where=str(folder),
        hint="name a model folder that `omnimix convert` wrote"
        + (" or a case folder" if GOLDEN in READINGS else f"; {DEVELOPERS}"),
    )
