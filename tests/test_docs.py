"""Every code block of README.md and docs/*.md runs as it stands.

Blocks of a file run in order in one namespace, in a folder of their own that holds a copy of `examples` and the
golden cases.
Of shell blocks the lines that call `omnimix` are run. A block after `<!-- skip: reason -->` is left out
and listed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [page for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))] if page.is_file()]

FENCE = re.compile(r"^(?P<indent> *)```(?P<word>\w*)[^\n]*\n(?P<body>.*?)^ *```\s*$", re.M | re.S)
SKIP = re.compile(r"<!--\s*skip:\s*(?P<reason>(?:(?!-->).)*?)\s*-->\s*\Z", re.S)
SHELLS = frozenset({"bash", "sh", "shell", "console"})
SHELL_SIGNS = frozenset({"|", ">", ">>", "<", "&&", "||", ";", "&"})
SECONDS = 900


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line it starts on, and why it is skipped."""

    word: str
    text: str
    line: int
    skip: str | None


def blocks(text: str) -> Iterator[Block]:
    for fence in FENCE.finditer(text):
        before = SKIP.search(text[: fence.start()])
        line = text.count("\n", 0, fence.start("body")) + 1
        indent = len(fence["indent"])
        body = "".join(row[min(indent, len(row)) :] for row in fence["body"].splitlines(True))
        yield Block(fence["word"].lower(), body, line, before["reason"] if before else None)


def commands(text: str) -> Iterator[list[str]]:
    """The words of every line that calls omnimix, with continued lines joined."""
    for row in text.replace("\\\n", " ").splitlines():
        call = row.strip().removeprefix("$ ")
        if call.split(" ")[0] == "omnimix":
            yield shlex.split(call, comments=True)[1:]


def run_python(block: Block, page: str, names: dict[str, Any]) -> None:
    # Empty lines in front make a traceback name the page's own lines.
    exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), names)


def run_command(words: list[str], place: str) -> None:
    signs = SHELL_SIGNS.intersection(words)
    assert not signs, f"{place}: {sorted(signs)} needs a shell; write it without, or skip it"
    code = "from omnimix.cli.main import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "MPLBACKEND": "Agg"},
    )
    call = shlex.join(["omnimix", *words])
    assert done.returncode == 0, f"{place}: {call}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = ROOT / "examples"
    if examples.is_dir():
        shutil.copytree(examples, tmp_path / "examples")
    (tmp_path / "golden").symlink_to(ROOT / "golden")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        place = f"{page.name}, line {block.line}"
        if block.skip is not None:
            print(f"skipped: {place}: {block.skip}")
        elif block.word == "python":
            run_python(block, str(page), names)
        elif block.word in SHELLS:
            for words in commands(block.text):
                run_command(words, place)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_skips_have_a_reason_and_a_block(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = [block.skip for block in blocks(text) if block.skip is not None]
    assert all(found), "a skip without a reason"
    assert len(found) == len(re.findall(r"<!--\s*skip:", text)), "a skip without a block after it"


PAGE = """
```python
one = 1
```

<!-- skip: takes hours -->
```bash
omnimix train
```

- in a list:

  ```console
  $ omnimix show nano \\
      --json  # all of it
  cd elsewhere
  omnimixer
  ```
"""


def test_the_reader_of_pages() -> None:
    first, second, third = blocks(PAGE)
    assert (first.word, first.text, first.line, first.skip) == ("python", "one = 1\n", 3, None)
    assert second.skip == "takes hours"
    assert list(commands(third.text)) == [["show", "nano", "--json"]]
