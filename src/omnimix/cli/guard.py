"""How the command line ends: errors as one sentence, exit codes, and options that take several numbers.

Exit codes: 0 done, 1 an error of omnimix itself or data of which too much cannot be used, 2 another error the user
can mend, 130 interrupted by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from omnimix.errors import OmnimixError

if TYPE_CHECKING:
    from PIL.Image import Image

    from omnimix.parallel.process_group import ProcessGroup

NUMBERS = {"--box": 4, "--point": 2}
"""Options whose numbers may stand apart (`--box 1 2 3 4`) or joined (`--box 1,2,3,4`)."""


class Guarded(TyperGroup):
    """The group of all commands; `--debug` and `--plugin` may stand anywhere on the line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--debug" in args:
            args = ["--debug", *(arg for arg in args if arg != "--debug")]
        args = _in_front(args, "--plugin")
        for word in args:
            if (
                "\0" in word
            ):  # No shell can say it; a program that calls this in its own process can.
                raise typer.BadParameter(f"{word!r} holds a NUL, which no name of a file can", ctx)
        for option, word in pairwise((*args, "-")):
            # A variable of the shell that is not set, as a rule; never the same as leaving the option out.
            if option.startswith("--") and (option.endswith("=") or not word):
                raise typer.BadParameter(f"{option.rstrip('=')} is given an empty word", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        debug = bool(ctx.params.get("debug"))
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except (OmnimixError, OSError, MemoryError) as error:
            told = error if isinstance(error, OmnimixError) else _of_the_machine(error)
            if _speaks():
                say(told.sentence(), debug)
            raise typer.Exit(told.exit_code) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if hasattr(error, "exit_code"):  # click's own, of whichever click typer brings
                raise
            line = " ".join(str(error).split()) or "no message"
            if _speaks():
                # A GPU that is full is a RuntimeError of torch's, which is not imported here.
                full = "out of memory" in line
                what = "the memory is full" if full else "a fault of omnimix itself"
                say(f"{what}: {line} (run again with --debug for the traceback)", debug)
            raise typer.Exit(1) from None
        finally:
            process_group = _process_group()
            if process_group is not None:
                process_group.leave()


def _in_front(args: list[str], option: str) -> list[str]:
    """An option with a value put in front, as often as it is given."""
    front: list[str] = []
    rest = list(args)
    while option in rest:
        at = rest.index(option)
        front += rest[at : at + 2]
        del rest[at : at + 2]
    return [*front, *rest]


def _of_the_machine(error: OSError | MemoryError) -> OmnimixError:
    """A file, a disk or a network that failed where nobody expected it to."""
    if isinstance(error, MemoryError):
        return OmnimixError("there is not enough memory", hint="make it smaller or fewer")
    reason = os.strerror(error.errno) if error.errno else " ".join(str(error).split())
    return OmnimixError(
        reason.rstrip(".") or "the system refuses",
        where=None if error.filename is None else os.fsdecode(error.filename),
    )


class PatientOutput(io.FileIO):
    """Standard output that may end early: the work goes on when its reader went away (`omnimix show nano | head`)."""

    def __init__(self) -> None:
        super().__init__(1, "w", closefd=False)

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            # What is left in the buffer is written once more when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if isinstance(error, BrokenPipeError):
                return len(data)
            error.filename = "standard output"
            raise


def open_output() -> None:
    """Put `PatientOutput` in place of `sys.stdout`; names that are no UTF-8 are printed with backslashes."""
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(PatientOutput()),
        encoding=sys.stdout.encoding,
        errors="backslashreplace",
        line_buffering=sys.stdout.isatty(),
    )


def _process_group() -> ProcessGroup | None:
    """The processes that share the work; None where nothing has asked for several."""
    module = sys.modules.get("omnimix.parallel.process_group")
    return None if module is None else module.current()


def _speaks() -> bool:
    """Whether this process is the one that tells what went wrong: its first."""
    process_group = _process_group()
    return process_group is None or process_group.rank == 0


def say(sentence: str, debug: bool = False) -> None:
    """One line on stderr, with the traceback above it where asked for."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if debug:
        console.print_exception()
    line = Text.assemble(("error: ", "bold red"), " ".join(sentence.split()))
    console.print(line)


class WordsJoined(TyperCommand):
    """A command that takes `--box 1 2 3 4` as well as `--box 1,2,3,4`, and `--sample` without a file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, joined(args))


def joined(args: list[str]) -> list[str]:
    """Numbers after an option of `NUMBERS` become one word; a bare `--sample` gets its default."""
    result: list[str] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        result.append(word)
        if word in NUMBERS:
            taken: list[str] = []
            while rest and len(taken) < NUMBERS[word] and _is_number(rest[0].rstrip(",")):
                taken.append(rest.pop(0).rstrip(","))
            if taken:
                result[-1] = f"{word}={','.join(taken)}"
        elif word == "--sample" and not (rest and rest[0].endswith((".json", ".jsonl"))):
            result[-1] = "--sample=scenes"
    return result


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def numbers(text: str, count: int, what: str) -> tuple[float, ...]:
    """The numbers of a joined word.

    Raises:
        OmnimixError: not as many numbers as the option takes.
    """
    words = text.replace(",", " ").split()
    if len(words) != count or not all(map(_is_number, words)):
        names = "x1 y1 x2 y2" if count == 4 else "x y"
        raise OmnimixError(
            f"{what} takes {count} numbers, not {text!r}",
            hint=f"write {what} {names} in pixels of the picture",
        )
    return tuple(map(float, words))


def places_of(options: Iterable[str]) -> dict[str, str]:
    """Places of parts, of `--part NAME=PLACE` options.

    Raises:
        OmnimixError: an option without a name or a place.
    """
    hint = "for instance --part llm=FOLDER, where the folder has the hub's layout"
    return dict(_pair(option, "--part takes NAME=PLACE", hint) for option in options)


def words_of(options: Iterable[str], option: str = "--word") -> dict[str, Any]:
    """Facts that no file tells, of `--word NAME=VALUE` options or another's; a value is read as YAML.

    Raises:
        OmnimixError: an option without a name or a value, or one that is no YAML.
    """
    import yaml

    words: dict[str, Any] = {}
    for pair in options:
        name, value = _pair(
            pair, f"{option} takes NAME=VALUE", f"for instance {option} image_size=224"
        )
        try:
            words[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise OmnimixError(
                f"the value of {option} {name} is no YAML: {value!r}",
                hint="a number, a plain word, or a table such as {heads: 4}",
            ) from None
    return words


def _pair(option: str, takes: str, hint: str) -> tuple[str, str]:
    name, equals, value = option.partition("=")
    if not equals or not name or not value:
        raise OmnimixError(f"{takes}, not {option!r}", hint=hint)
    return name, value


def save_drawing(picture: Image, file: Path) -> None:
    """Write what `--draw` asks for.

    Raises:
        OmnimixError: no file of a picture can be written there.
    """
    try:
        picture.save(file)
    except (OSError, ValueError) as error:
        raise OmnimixError(
            f"cannot write the drawing ({getattr(error, 'strerror', None) or error})",
            where=str(file),
            hint="give --draw a file name that ends in .png, in a folder that exists",
        ) from None
