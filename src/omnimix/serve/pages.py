"""The files of a page, shown as they are; a browser is told to load nothing from anywhere else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response

_POLICY = {
    "default-src": "'self'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "font-src": "'self'",
    "img-src": "'self' blob: data:",
    "media-src": "'self' blob: data:",
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {places}" for name, places in _POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def files(folder: Path | None) -> dict[str, Callable[[Request], Awaitable[Response]]]:
    """A route for every file of a built page, by path, `index.html` at `/`; none where there is no such folder.

    They are listed once, so that no path of a request ever meets the disk.
    """
    if folder is None or not (folder / "index.html").is_file():
        return {}
    found = {
        f"/{path.relative_to(folder).as_posix()}": path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    routes = {path: _shown(file) for path, file in found.items()}
    return {"/": routes["/index.html"], **routes}


def _shown(file: Path) -> Callable[[Request], Awaitable[Response]]:
    async def route(_: Request) -> Response:
        return FileResponse(file, headers=HEADERS)

    return route
