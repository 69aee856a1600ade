"""`POST /v1/prompt`: a conversation as the model sees it, without an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from omnimix.compose.spans import spans
from omnimix.generate.decoding import Options
from omnimix.serve import bodies
from omnimix.serve.desk import Desk
from omnimix.serve.openai import chat, requests
from omnimix.types import Sample


def prompt(desk: Desk) -> Callable[[Request], Awaitable[Response]]:
    """The route of token maps; its body is that of a conversation."""

    async def route(request: Request) -> Response:
        asked = requests.read(requests.ChatBody, await bodies.body(request, chat.CHAT))
        chat.check_model(desk, asked.model)
        options = asked.options(desk.settings.options)
        sample = await chat.read(desk, request, asked.messages)
        return JSONResponse(await asyncio.to_thread(_map, desk, sample, options))

    return route


def _map(desk: Desk, sample: Sample, options: Options) -> dict[str, Any]:
    processor = desk.engine.processor
    woven = processor.weave(sample, True, options.max_new_tokens, pointing=options.pointing)
    pieces = [
        {
            "kind": span.kind,
            "text": span.text,
            "tokens": span.tokens,
            **({"modality": span.modality} if span.modality else {}),
        }
        for span in spans(processor, woven)
    ]
    return {
        "model": desk.engine.name,
        "tokens": len(woven),
        "max_context": processor.weave.context,
        "max_tokens": options.max_new_tokens,
        "regions_as": woven.way,
        "pictures": [list(view.size) for view in woven.pictures],
        "pieces": pieces,
    }
