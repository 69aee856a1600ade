"""`POST /v1/segment`: masks of the things that regions point at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from omnimix.errors import OmnimixError
from omnimix.media.image import ImageOpener
from omnimix.regions import from_json, to_json
from omnimix.segment.base import Segmenter
from omnimix.serve import bodies
from omnimix.serve.answers import Refused, said
from omnimix.serve.desk import Desk
from omnimix.serve.keys import owner
from omnimix.serve.openai import requests
from omnimix.serve.openai.parts import Place
from omnimix.serve.schema import Asked
from omnimix.types import Region

EXAMPLE = '{"image": {"url": "data:image/png;base64,..."}, "regions": [{"point": [x, y]}]}'


class SegmentBody(Asked):
    """The body of `POST /v1/segment`.

    Attributes:
        image: the picture; its url, or the `uuid` that a message gave it.
        regions: in pixels of the picture.
        model: means nothing here.
    """

    image: Place
    regions: list[dict[str, Any]] = Field(min_length=1)
    model: str | None = None


def segment(desk: Desk) -> Callable[[Request], Awaitable[Response]]:
    """The route of masks."""
    turn = asyncio.Lock()

    async def route(request: Request) -> Response:
        asked = requests.read(SegmentBody, await bodies.body(request, EXAMPLE))
        segmenter = desk.settings.segmenter
        if segmenter is None:
            error = OmnimixError(
                "this server makes no masks",
                hint="start it with --segment and weights of SAM's family",
            )
            raise Refused(said(404, error, code="not_available"))
        if len(asked.regions) > desk.settings.max_items:
            raise OmnimixError(
                f"{len(asked.regions)} regions, and this server takes {desk.settings.max_items}",
                where="regions",
                hint="send fewer at once",
            )
        regions = [from_json(one, f"regions[{i}]") for i, one in enumerate(asked.regions)]
        who = owner(request.scope)
        async with turn:
            work = asyncio.to_thread(_masks, desk, segmenter, asked, regions, who)
            return JSONResponse(await desk.there(request, work))

    return route


def _masks(
    desk: Desk, segmenter: Segmenter, asked: SegmentBody, regions: list[Region], who: str
) -> dict[str, Any]:
    recipe, place = desk.engine.recipe, asked.image
    name = recipe.modality_for("image")
    opens = ImageOpener() if name is None else recipe.modalities[name].opens
    if not isinstance(opens, ImageOpener):
        opens = ImageOpener()
    if place is None or (place.url is None and place.uuid is None):
        raise OmnimixError("there is no picture", where="image", hint=f"send {EXAMPLE}")
    if place.url is None:
        assert place.uuid is not None
        media = desk.uuids.get(who, place.uuid, "image")
    else:
        media = desk.settings.items.file("image", place.url, "image")
        if place.uuid is not None:
            desk.uuids.put(who, place.uuid, media)
    picture = opens.once(media)
    masks = segmenter.segment(picture, regions)
    rows = [
        {"index": i, "kind": "mask", **to_json(mask), "area": int(mask.area())}
        for i, mask in enumerate(masks)
    ]
    return {"width": picture.width, "height": picture.height, "masks": rows}
