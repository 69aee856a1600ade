"""`POST /generate` as multi_token's server has it, read into the words of `omnimix serve`.

`{"messages": [{"role": "user", "content": "<image> What is it?"}], "images": ["a.png"]}` gives `{"output": "..."}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omnimix.compose.recipe import Recipe
from omnimix.errors import SampleError
from omnimix.families.multi_token.placeholders import PUBLISHED, Published, published, turns
from omnimix.generate.answers import Answer
from omnimix.registry import did_you_mean
from omnimix.serve.schema import ItemPart, Message, RegionPart, Request, TextPart
from omnimix.serve.wires import Body, Wire

NOT_HEARD = frozenset({"id", "temperature", "max_new_tokens"})
"""Words that the reference's clients send and its server answers without listening: `id` is that of a row of data,
the other two are the server's to decide."""


_MOST = 10_000
"""Items of a list: each is made into a part of some hundred bytes before the server's own limit is asked."""


class Generate(Wire):
    """Placeholders in the text, and one list of items for each modality."""

    path = "/generate"
    example = '{"messages": [{"role": "user", "content": "..."}]}'

    def read(self, body: Mapping[str, Any], recipe: Recipe) -> Body:
        _check_words(body, recipe)
        said, left = turns(
            body.get("messages"), body, recipe.modalities, _part, "request", surplus="ignore"
        )
        # The placeholder of a published modality that the model lacks would be read as a text.
        for number, message in enumerate(body["messages"], start=1):
            for row in PUBLISHED:
                if row.modality not in recipe.modalities and row.token in message["content"]:
                    what = f"the placeholder {row.token} is of a modality that the model lacks"
                    raise _no_place(what, f"request: message {number}", recipe)
        messages = [
            Message.model_construct(
                role=role,
                content=[TextPart(text=one) if isinstance(one, str) else one for one in content],
            )
            for role, content in said
        ]
        return Body(Request(messages=messages), tuple(left))

    def written(self, answer: Answer) -> dict[str, Any]:
        return {"output": answer.text}

    def words(self, modality: str) -> dict[str, str]:
        told = published(modality)
        return {"placeholder": told.token, "key": told.key}


def _part(item: Any, told: Published, number: int) -> ItemPart | RegionPart:
    label = f"{told.key}[{number}]"
    if told.modality == "region":
        return RegionPart(region=item, label=label)
    return ItemPart(modality=told.modality, source=item, label=label)


def _check_words(body: Mapping[str, Any], recipe: Recipe) -> None:
    """Refuse words that nobody knows, and items that the model has no place for.

    Raises:
        SampleError: the first such word. Lists that are empty or null ask for nothing and are let through.
    """
    own = {published(name).key for name in recipe.modalities}
    others = {row.key for row in PUBLISHED} - own
    for word, value in body.items():
        if isinstance(value, list) and len(value) > _MOST:
            what = f"{word} holds {len(value)} items, and at most {_MOST} are read"
            raise SampleError(what, where="request", hint="send fewer at once")
        if word in others and value:
            raise _no_place(f"the model takes no {word}", "request", recipe)
        if word not in own | others | NOT_HEARD | {"messages"}:
            hint = did_you_mean(str(word), {"messages", *own})
            raise SampleError(f"unknown word {word!r}", where="request", hint=hint)


def _no_place(what: str, where: str, recipe: Recipe) -> SampleError:
    takes = [f"{told.token} with {told.key}" for told in map(published, recipe.modalities)]
    return SampleError(what, where=where, hint=f"it takes {', '.join(takes) or 'text alone'}")
