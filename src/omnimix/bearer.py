"""What a server is told to be let in by, without ever saying it to anybody else."""

from __future__ import annotations

from omnimix.errors import OmnimixError


def bearer(key: str | None, name: str) -> dict[str, str]:
    """The header that says a key; none where there is no key.

    Args:
        key: as it was given; white space around it, such as the line end of a file, is no part of it.
        name: where it comes from, for the error.

    Raises:
        OmnimixError: it holds what a header cannot; http's own error would print it.
    """
    key = (key or "").strip()
    if not (key.isascii() and (key.isprintable() or not key)):
        raise OmnimixError(f"{name} holds what no key has: line ends or other letters")
    return {"Authorization": f"Bearer {key}"} if key else {}
