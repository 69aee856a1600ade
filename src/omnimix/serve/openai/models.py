"""`GET /v1/models`: the model, with what a page needs to know of it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from omnimix.checkpoints import licences, releases
from omnimix.compose.pointing import way
from omnimix.compose.recipe import Recipe
from omnimix.errors import OmnimixError
from omnimix.generate import folder
from omnimix.media.opening import Opener
from omnimix.media.several import Several
from omnimix.region_limits import MOST_POINTS
from omnimix.serve import ready
from omnimix.serve.answers import said
from omnimix.serve.desk import Desk
from omnimix.serve.openai.parts import KINDS

_LIMITS = ("max_bytes", "max_pixels", "max_side", "max_seconds", "max_pages", "max_characters")
_REGIONS = ("point", "box", "polygon", "stroke", "mask")


def models(desk: Desk) -> Callable[[Request], Awaitable[Response]]:
    """The list of the one model."""
    facts = _facts(desk)

    async def route(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [facts]})

    return route


def model(desk: Desk) -> Callable[[Request], Awaitable[Response]]:
    """The model by its name."""
    facts = _facts(desk)

    async def route(request: Request) -> Response:
        if request.path_params["name"] == desk.engine.name:
            return JSONResponse(facts)
        error = OmnimixError(
            "there is no such model here", where="model", hint=f"ask {desk.engine.name!r}"
        )
        return said(404, error, code="model_not_found")

    return route


def _facts(desk: Desk) -> dict[str, Any]:
    recipe, settings = desk.engine.recipe, desk.settings
    options = settings.options
    return {
        "id": desk.engine.name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "omnimix",
        "about": recipe.about,
        "family": _family(desk.engine.name),
        "licence": _licence(desk.engine.name),
        "max_context": desk.engine.processor.weave.context,
        "max_tokens": options.max_new_tokens,
        "defaults": {
            "temperature": options.temperature,
            "top_p": options.top_p,
            "seed": options.seed,
        },
        "system": recipe.template.system is not None,
        "modalities": [row for name in recipe.modalities for row in _modality(recipe, name)],
        "regions": _regions(recipe),
        "chips": [one.model_dump(mode="json") for one in ready.prompts(recipe)],
        "segment": settings.segmenter is not None,
        "limits": {
            "max_bytes": settings.max_bytes,
            "max_items": settings.max_items,
            "max_characters": settings.max_characters,
            "max_points": MOST_POINTS,
            "max_waiting": settings.max_waiting,
            "deadline": settings.deadline,
            "urls": settings.items.fetcher is not None,
            "files": settings.items.root is not None,
        },
    }


def _modality(recipe: Recipe, name: str) -> Iterator[dict[str, Any]]:
    """A row for every kind of item that a modality takes, and how items of it are written."""
    spec = recipe.modalities[name]
    if spec.media == "region":
        return
    openers = {kind: spec.opens for kind in spec.opens.takes()}
    if isinstance(spec.opens, Several):
        openers = {kind: row.opens for kind, row in spec.opens.kinds.items()}
    for kind, opener in openers.items():
        # A part of a type goes to the modality that takes it first; others are asked by their name.
        types = [type_ for type_, of in KINDS.items() if of == kind]
        first = recipe.modality_for(kind) == name
        yield {
            "name": name,
            "kind": kind,
            "types": types if first else ["item"],
            "limits": limits(opener),
        }


def limits(opener: Opener) -> dict[str, Any]:
    """What an opener takes at most."""
    return {name: getattr(opener, name) for name in _LIMITS if hasattr(opener, name)}


def _regions(recipe: Recipe) -> dict[str, Any] | None:
    """How regions reach the model and come back; None where it sees no pictures."""
    if recipe.modality_for("image") is None:
        return None
    codec = recipe.coordinates
    answered = [kind for kind, has in (("point", codec.points), ("box", codec.boxes)) if has]
    marked = recipe.modality_for("region")
    return {
        "accepted": list(_REGIONS),
        "as": way(recipe),
        "max": getattr(_encoder(recipe, marked), "slots", None) if marked else None,
        "answered": answered,
        "format": codec.row_name(),
    }


def _encoder(recipe: Recipe, name: str) -> Any:
    return recipe.modalities[name].branches[0].encoders[0]


def _family(name: str) -> str | None:
    found = releases.lookup(name)
    return None if found is None else found.about.title


def _licence(name: str) -> str | None:
    """That of a release and of its language model, or of a model that ships; None where it is not known."""
    found = releases.lookup(name)
    if found is not None:
        stated = (found.about.licence, found.language.licence)
        return "; ".join(dict.fromkeys(filter(None, stated))) or None
    return "Apache-2.0" if name in folder.shipped() else licences.of_part(name)
