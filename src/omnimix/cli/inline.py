"""Pictures in the terminal itself, where it can show them."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path

_CHUNK = 4096


def way(environment: Mapping[str, str] = os.environ) -> str | None:
    """How this terminal shows pictures: `kitty`, `iterm`, or not at all. Inside of tmux and screen nothing comes through."""
    if environment.get("TERM", "").startswith(("screen", "tmux")) or environment.get("TMUX"):
        return None
    if environment.get("KITTY_WINDOW_ID") or environment.get("TERM_PROGRAM") == "ghostty":
        return "kitty"
    known = environment.get("TERM_PROGRAM") in ("iTerm.app", "WezTerm", "vscode")
    return "iterm" if known else None


def shown(png: Path, how: str) -> str:
    """The signs that show a PNG.

    Args:
        how: of `way`.
    """
    data = base64.b64encode(png.read_bytes()).decode()
    if how == "iterm":
        return f"\033]1337;File=inline=1;preserveAspectRatio=1:{data}\a\n"
    chunks = [data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK)]
    last = len(chunks) - 1
    signs = [
        f"\033_G{'f=100,a=T,' if i == 0 else ''}m={int(i < last)};{chunk}\033\\"
        for i, chunk in enumerate(chunks)
    ]
    return "".join(signs) + "\n"
