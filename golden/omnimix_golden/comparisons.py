"""Which comparisons a case holds, so that one that is lost fails it instead of vanishing.

`python -m omnimix_golden.comparisons CASE ...` runs a case that agrees and writes `comparisons.json` into it: for each
stage the names of its comparisons, and how many values each holds against each other. A golden tensor or a word of
the case that is taken out or cut short, and a reading that stops looking, then show as the stage `missing`.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from omnimix.convert.report import Check, stopped
from omnimix.convert.verifying import verify
from omnimix.errors import CheckpointError, OmnimixError

FILE = "comparisons.json"

Held = dict[str, dict[str, int]]
"""Stage, comparison, and how many values it holds."""


def held_by(checks: Sequence[Check]) -> Held:
    """What these checks compared; checks of one name count together."""
    values: Counter[tuple[str, str]] = Counter()
    for check in checks:
        values[check.stage, check.what] += check.values
    found: Held = {}
    for (stage, what), count in values.items():
        found.setdefault(stage, {})[what] = count
    return found


def stated(folder: Path) -> Held | None:
    """What the case says that it holds, or None where it does not say.

    Raises:
        CheckpointError: a file that cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(stage): {str(what): int(count) for what, count in rows.items()}
            for stage, rows in found.items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{FILE} cannot be read ({error})", where=str(path)) from None


def missing(wanted: Held, checks: Sequence[Check]) -> Iterator[Check]:
    """A failed check for each comparison that was not made, or made of another count of values."""
    made = held_by(checks)
    for stage, rows in wanted.items():
        for what, count in rows.items():
            found = made.get(stage, {}).get(what)
            if found is None:
                yield stopped(
                    "missing", f"{FILE} lists it, nothing compared it", f"{stage}: {what}"
                )
            elif found != count:
                note = f"{found} values were compared, {FILE} lists {count}"
                yield stopped("missing", note, f"{stage}: {what}")


def write(folder: Path) -> Path:
    """Write what a case holds into its folder.

    Raises:
        OmnimixError: the case does not agree, apart from what its present list misses.
    """
    checks = [check for check in verify(folder, stop=False).checks if check.stage != "missing"]
    wrong = next((check for check in checks if not check.passed), None)
    if wrong is not None or not checks:
        what = f"{wrong.stage}, {wrong.what}: {wrong.note}" if wrong else "nothing was compared"
        raise OmnimixError(f"the case does not agree: {what}", where=str(folder))
    path = folder / FILE
    text = json.dumps(held_by(checks), indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    for case in sys.argv[1:]:
        sys.stdout.write(f"{write(Path(case))}\n")
