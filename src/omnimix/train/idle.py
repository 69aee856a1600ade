"""Whether the steps of a stage teach anything; a stage that teaches nothing is no success."""

from __future__ import annotations

from omnimix.errors import TrainError
from omnimix.train.rows import JUDGED
from omnimix.train.step import LEARNED, Stepped

LEAST = 3
"""Steps that are taken before it is said that they teach nothing."""


class IdleError(TrainError):
    """Steps from which nothing is learned."""

    exit_code = 1


class Idle:
    """Steps without any gradient.

    A step may teach nothing: one without a picture, say, where only a picture's connector learns. Steps in which
    every record must have come by may not, nor may all steps of a stage.

    Args:
        number: of the stage.
        rows: of all its datasets together; None where one has no end.
        datasets: how many they are.
        taught: whether a step did, before the run went on.
    """

    def __init__(self, number: int, rows: int | None, datasets: int, taught: bool) -> None:
        self.where = f"stages.{number}"
        # Of so many records in a row each came once, wherever in its round the run of them began.
        whole = JUDGED if rows is None else rows
        self.most = 2 * (whole if datasets == 1 else max(whole, JUDGED))
        self.taught = taught
        self.steps = self.records = 0
        self.empty = True

    def take(self, done: Stepped | None, records: int) -> None:
        """Take in a step that read so many records.

        Raises:
            IdleError: there were so many such steps that no other is to be expected.
        """
        moved = done is not None and float(done.norm) != 0
        self.taught |= moved
        # Where nothing is lost any more nothing is wrong.
        if moved or (done is not None and float(done.loss) <= LEARNED):
            self.steps = self.records = 0
            self.empty = True
            return
        self.steps, self.records = self.steps + 1, self.records + records
        self.empty &= done is None
        if self.steps >= LEAST and self.records >= self.most:
            raise self._error(f"the last {self.steps} steps taught nothing")

    def end(self, steps: int) -> None:
        """Take in that the stage is over.

        Raises:
            IdleError: no step of it taught anything.
        """
        if steps and not self.taught:
            raise self._error(f"no step of {steps} taught anything")

    def _error(self, what: str) -> IdleError:
        if self.empty and self.steps:
            why, hint = "none of their records can be used", "look at dropped.jsonl and at the rows"
        else:
            why = "the gradient was 0.0 in all of them, for no record uses what learns"
            hint = (
                "look at the word trainable, and whether the rows hold the items that it is about"
            )
        return IdleError(f"{what}: {why}", where=self.where, hint=hint)
