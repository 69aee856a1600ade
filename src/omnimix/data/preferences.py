"""Rows of preferences: a prompt, an answer that was chosen and one that was rejected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from omnimix.data.placing import READS, Strictness, role_of
from omnimix.data.roots import Roots
from omnimix.data.rows import RowFormat
from omnimix.data.talks import MessagesFormat, TurnsFormat
from omnimix.errors import SampleError
from omnimix.types import Sample, Turn

_PROMPTS = ("prompt", "question", "conversations", "messages")
_HINT = (
    'write {"prompt": [...], "chosen": [...], "rejected": [...]}, or texts in place of the lists'
)


class PreferenceFormat(RowFormat):
    """`{"images": ["a.jpg"], "prompt": [{"role": "user", "content": "What is it?"}], "chosen": [{"role": "assistant",
    "content": "A cup."}], "rejected": [{"role": "assistant", "content": "A dog."}]}`.

    Each of the three may be a text, one message or a list of them, as `role` and `content` or `from` and `value`;
    `question`, `conversations` or `messages` may stand for `prompt`, which is left out where `chosen` and `rejected`
    are whole conversations. With `turns` for `prompt` the parts are those of the format `turns`, regions among them.
    Of the answers in the prompt nothing is learned.

    Attributes:
        marks: as of `llava`; `loose` by default, since such rows often name no place for their pictures.
    """

    kind: Literal["preference"] = "preference"
    marks: Strictness = "loose"

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        return {"chosen", "rejected"} <= row.keys()

    def reads(self) -> frozenset[str]:
        return READS

    def sample(self, row: Mapping[str, Any], roots: Roots, where: str) -> Sample:
        if not self.recognises(row):
            raise SampleError("a row without chosen and rejected", where=where, hint=_HINT)
        own = "turns" in row
        named = ["turns"] if own else [name for name in _PROMPTS if row.get(name) is not None]
        if len(named) > 1:
            raise SampleError(f"both {named[0]} and {named[1]} are there", where=where, hint=_HINT)
        prompt = _messages(row[named[0]], "user", where) if named else []
        both = [_messages(row[name], "assistant", where) for name in ("chosen", "rejected")]
        if not prompt:
            prompt, both = _parted(both[0], both[1], where)
        if row.get("system"):
            prompt.insert(0, {"role": "system", "content": row["system"]})
        key = "turns" if own else "messages"
        form = TurnsFormat() if own else MessagesFormat(marks=self.marks)
        left = {k: v for k, v in row.items() if k not in (*named, "chosen", "rejected", "system")}
        chosen, rejected = (
            form.sample({**left, key: [*prompt, *answer]}, roots, where) for answer in both
        )
        # The prompt's items are one and the same, so that they are opened once and drawn alike.
        first = tuple(_unlearned(turn) for turn in chosen.turns[: len(prompt)])
        worse = (*first, *rejected.turns[len(prompt) :])
        return replace(chosen, turns=(*first, *chosen.turns[len(prompt) :]), rejected=worse)


def _unlearned(turn: Turn) -> Turn:
    return replace(turn, loss_scale=0.0) if turn.role == "assistant" else turn


def _messages(value: Any, role: str, where: str) -> list[dict[str, Any]]:
    """A text, a message or a list of messages as messages."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    found = []
    for one in [value] if isinstance(value, Mapping) else value:
        if isinstance(one, Mapping) and {"from", "value"} <= one.keys():
            one = {"role": role_of(one["from"], where), "content": one["value"]}
        if not isinstance(one, Mapping) or not {"role", "content"} <= one.keys():
            raise SampleError("not a record of preferences", where=where, hint=_HINT)
        found.append(dict(one))
    return found


def _parted(
    chosen: list[dict[str, Any]], rejected: list[dict[str, Any]], where: str
) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """What two conversations begin with, and what each goes on with.

    Raises:
        SampleError: one of them is the beginning of the other, or they have nothing in common.
    """
    shared = 0
    for one, other in zip(chosen, rejected, strict=False):
        if one != other:
            break
        shared += 1
    if not 0 < shared < min(len(chosen), len(rejected)):
        raise SampleError(
            "chosen and rejected are no two answers to one prompt", where=where, hint=_HINT
        )
    return chosen[:shared], [chosen[shared:], rejected[shared:]]
