"""Formats of conversations: `conversations` of LLaVA and ShareGPT, `messages` of OpenAI and Hugging Face, `turns`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from omnimix.data.containers import wrong_form
from omnimix.data.placing import READS, Items, Strictness, items_of, placed, role_of
from omnimix.data.roots import Roots
from omnimix.data.rows import RowFormat, id_of
from omnimix.errors import SampleError
from omnimix.regions import from_json
from omnimix.types import Media, Part, Sample, Turn, text_of

_REGIONS = frozenset({"point", "box", "xywh", "polygon", "stroke", "rle", "png"})


class LlavaFormat(RowFormat):
    """`{"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nHow many?"}, {"from": "gpt",
    "value": "Two."}]}`.

    Attributes:
        marks: `strict` refuses a record whose marks and pictures differ in number; `loose` drops surplus
            marks and puts pictures without one in front of the first question (arXiv 2402.07865, where a mark has
            no place anyway).
    """

    kind: Literal["llava"] = "llava"
    marks: Strictness = "strict"

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        return "conversations" in row and not row.keys() & {"images", "videos", "audios", "system"}

    def reads(self) -> frozenset[str]:
        return READS

    def sample(self, row: Mapping[str, Any], roots: Roots, where: str) -> Sample:
        turns = turns_of(row, where)
        said = [(role_of(turn["from"], where), turn["value"]) for turn in turns]
        if row.get("system"):
            said.insert(0, ("system", row["system"]))
        return Sample(
            placed(said, items_of(row, roots, where), where, self.marks), id_of(row, where)
        )


class ShareGptFormat(LlavaFormat):
    """`{"conversations": [{"from": "human", "value": "<video>What happens?"}, {"from": "gpt", "value": "It
    rains."}], "videos": ["a.mp4"], "system": "Be short."}`: lists `images`, `videos`, `audios`."""

    kind: Literal["sharegpt"] = "sharegpt"  # type: ignore[assignment]

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        return "conversations" in row and not LlavaFormat.recognises(row)


def turns_of(row: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    """The turns of a record of conversations.

    Raises:
        SampleError: it is none.
    """
    turns = row.get("conversations")
    if not isinstance(turns, list) or not all(
        isinstance(turn, Mapping) and {"from", "value"} <= turn.keys() for turn in turns
    ):
        raise SampleError(
            "not a record in the form of LLaVA",
            where=where,
            hint='write {"conversations": [{"from": "human", "value": ...}, ...]}',
        )
    return turns


class MessagesFormat(RowFormat):
    """`{"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
    {"role": "assistant", "content": "A cup."}], "images": ["a.jpg"]}`.

    The content is text with marks (`<image>`), or a list of typed parts as OpenAI (`image_url`, `input_audio`) and
    Hugging Face (`image`, `video`, `audio` with `url`, `path` or nothing, which takes the next of the list) write
    them; `prompt` and `completion` are read as messages too.

    Attributes:
        marks: as of `llava`.
    """

    kind: Literal["messages"] = "messages"
    marks: Strictness = "strict"

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        both = isinstance(row.get("prompt"), list) and isinstance(row.get("completion"), list)
        return "messages" in row or both

    def reads(self) -> frozenset[str]:
        return READS

    def sample(self, row: Mapping[str, Any], roots: Roots, where: str) -> Sample:
        if row.get("label") is False and "completion" in row:  # TRL's unpaired preferences
            raise SampleError(
                "an answer that was not liked (label: false) is nothing to learn",
                where=where,
                hint="leave such rows out, or pair them: prompt, chosen, rejected",
            )
        items = items_of(row, roots, where)
        messages = messages_of(row, where)
        said = [
            (role_of(one["role"], f"{where}: message {i}"), one["content"])
            for i, one in enumerate(messages, 1)
        ]
        said = [
            (role, _parts(content, items, roots, f"{where}: message {i}"))
            for i, (role, content) in enumerate(said, 1)
        ]
        return Sample(placed(said, items, where, self.marks), id_of(row, where))


def messages_of(row: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    """The messages of a row.

    Raises:
        SampleError: they are none.
    """
    found = row["messages"] if "messages" in row else [*row["prompt"], *row["completion"]]
    if not isinstance(found, list | tuple) or not found:
        what = "the messages are no list" if found else "there are no messages"
        hint = 'write [{"role": "user", "content": "..."}, ...]'
        raise SampleError(what, where=where, hint=hint)
    for i, message in enumerate(found, 1):
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise SampleError(
                "a message has a role and content",
                where=f"{where}: message {i}",
                hint='write {"role": "user", "content": "..."}',
            )
        if message.get("tool_calls"):
            raise SampleError("calls of tools are not read", where=f"{where}: message {i}")
    return list(found)


def _parts(content: Any, items: Items, roots: Roots, where: str) -> Any:
    """Typed parts as text and items, those without a place of their own taken from the row's lists."""
    if not isinstance(content, list | tuple):
        return content
    parts: list[Part] = []
    for part in content:
        if isinstance(part, str):
            parts.append(part)
            continue
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in ("text", "input_text", "output_text"):
            parts.append(text_of(part.get("text"), "the text of a part", where))
            continue
        sense = {"image_url": "image", "input_image": "image", "video_url": "video"}.get(
            str(kind), {"input_audio": "audio", "audio_url": "audio"}.get(str(kind), kind)
        )
        if sense not in ("image", "video", "audio"):
            raise SampleError(
                f"a part of type {kind!r} is not read",
                where=where,
                hint="the types are text, image, image_url, video, video_url, audio, input_audio",
            )
        parts.append(_item(sense, part, items, roots, where))
    return parts


def _item(sense: str, part: Mapping[str, Any], items: Items, roots: Roots, where: str) -> Media:
    value: Any = {key: own for key, own in part.items() if key != "type" and own is not None}
    inner = value.get(str(part["type"]), value.get(sense))
    if isinstance(inner, Mapping) and "data" in inner:
        value = {"base64": inner["data"]}
    elif inner is not None:
        value = inner
    if value:
        return roots.media(sense, value, where)
    if not items.get(sense):
        raise SampleError(f"more parts {sense!r} than items in {sense}s", where=where)
    return items[sense].pop(0)


class TurnsFormat(RowFormat):
    """`{"turns": [{"role": "user", "content": [{"image": "a.png"}, "What is in ", {"box": [1, 2, 30, 40]}, "?"]},
    {"role": "assistant", "content": ["A cup."]}]}`: omnimix's own, with regions of any kind and `{"item": {name:
    path}}` for any modality."""

    kind: Literal["turns"] = "turns"

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        return "turns" in row

    def sample(self, row: Mapping[str, Any], roots: Roots, where: str) -> Sample:
        try:
            said = [
                (turn["role"], [self._part(part, roots, where) for part in _listed(turn)])
                for turn in row["turns"]
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise SampleError(
                f"not a record ({wrong_form(error)})",
                where=where,
                hint='write {"id": ..., "turns": [{"role": "user", "content": [...]}]}',
            ) from None
        turns = tuple(Turn(role, tuple(content)) for role, content in said)
        return Sample(turns, id_of(row, where), row.get("meta") or {})

    def _part(self, part: object, roots: Roots, where: str) -> Part:
        if isinstance(part, str):
            return part
        if isinstance(part, dict) and len(part.keys() - {"on", "label", "width"}) == 1:
            on = part.get("on")
            if on is not None and (isinstance(on, bool) or not isinstance(on, int)):
                raise SampleError(f"'on' is the number of a picture, not {on!r}", where=where)
            for kind in ("image", "audio", "video", "document"):
                if kind in part:
                    return self._item(kind, part[kind], roots, where)
            if isinstance(part.get("item"), dict) and len(part["item"]) == 1:
                ((name, file),) = part["item"].items()
                return self._item(name, file, roots, where)
            if part.keys() & _REGIONS:
                words = {key: value for key, value in part.items() if key != "on"}
                return Media.region(from_json(words, where), on)
        raise SampleError(
            "a part of a turn is text, image, audio, video, document, item, box, point or another region, "
            f"not {part!r}",
            where=where,
        )

    def _item(self, kind: str, file: Any, roots: Roots, where: str) -> Media:
        return roots.media(kind, file, where)


def _listed(turn: Mapping[str, Any]) -> list[Any]:
    content = turn["content"]
    if not isinstance(content, str | list):
        text_of(content, "the content of a turn")
    return [content] if isinstance(content, str) else content
