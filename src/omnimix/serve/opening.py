"""A request becomes a sample: every item is found where the server allows it, none is decoded yet."""

from __future__ import annotations

from omnimix.compose.recipe import Recipe
from omnimix.errors import SampleError
from omnimix.regions import from_json
from omnimix.registry import did_you_mean
from omnimix.serve.items import ItemReader
from omnimix.serve.schema import ItemPart, MediaPart, RegionPart, Request, TextPart
from omnimix.serve.wires import Body
from omnimix.types import Media, Part, Sample, Turn


def sample(body: Body, recipe: Recipe, items: ItemReader, most: int) -> Sample:
    """The conversation of a body. May wait for the network.

    Args:
        recipe: of the model, which says what its modalities take.
        items: where items may come from.
        most: items of one request.

    Raises:
        OmnimixError: too many items, one that the model has no place for, or one that cannot be had.
    """
    count = sum(1 for _ in body.request.items()) + len(body.surplus)
    if count > most:
        raise SampleError(
            f"{count} items in one request, and this server takes {most}",
            where="request",
            hint="send fewer at once",
        )
    for number, extra in enumerate(body.surplus):
        media(extra, recipe, items, f"surplus[{number}]")
    return Sample(tuple(_turns(body.request, recipe, items)), "request")


def _turns(request: Request, recipe: Recipe, items: ItemReader) -> list[Turn]:
    turns = []
    for i, message in enumerate(request.messages):
        content: list[Part] = []
        for j, part in enumerate(message.content):
            if isinstance(part, TextPart):
                content.append(part.text)
            else:
                content.append(media(part, recipe, items, f"messages[{i}].content[{j}]"))
        turns.append(Turn(message.role, tuple(content)))
    return turns


def media(
    part: MediaPart | ItemPart | RegionPart, recipe: Recipe, items: ItemReader, where: str
) -> Media:
    """What one part is, found where the server allows it.

    Args:
        where: its place in the request, which messages name.
    """
    where = part.label or where
    if isinstance(part, RegionPart):
        return Media("region", from_json(part.region, where), on=part.on)
    if isinstance(part, ItemPart):
        if part.modality not in recipe.modalities:
            raise SampleError(
                f"the model has no modality {part.modality!r}",
                where=where,
                hint=did_you_mean(part.modality, recipe.modalities or ("text alone",)),
            )
        return items.media(part.source, part.modality, recipe.modalities[part.modality], where)
    name = recipe.modality_for(part.type)
    if name is None:
        takes = [kind for spec in recipe.modalities.values() for kind in spec.opens.takes()]
        raise SampleError(
            f"the model takes no {part.type}",
            where=where,
            hint=f"it takes {', '.join(dict.fromkeys(takes)) or 'text alone'}",
        )
    source = part.source
    if part.type == "document" and isinstance(source, str):
        source = {"text": source}  # whatever it looks like; a file is {"path": ...}
    # A modality may take several kinds: the kind that the client says stays with the item.
    return items.media(source, part.type, recipe.modalities[name], where)
