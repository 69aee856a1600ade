"""A model of ours inside other harnesses: lmms-eval (`--model omnimix`) and VLMEvalKit.

Both are imported when they ask: neither is needed here. lmms-eval finds `manifest` by the entry point in the group
`lmms_eval.models`; VLMEvalKit's table takes `partial(vlmevalkit(), model_path="nano")`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omnimix.errors import SampleError
from omnimix.types import Media, Part, Sample, Turn

ENDS = ("max_new_tokens", "temperature", "top_p")
"""What harnesses say of writing that means the same here."""


def manifest() -> Any:
    """What lmms-eval's registry takes."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("omnimix", chat_class_path=f"{__name__}.LmmsEval")


def conversation(messages: Sequence[Mapping[str, Any]], name: str = "question") -> Sample:
    """Messages of lmms-eval's chat models: parts `text`, `image`, `video` and `audio`, each with its `url`.

    Raises:
        SampleError: a part of another type.
    """
    turns = []
    for message in messages:
        content = message["content"]
        parts = [content] if isinstance(content, str) else [_part(one) for one in content]
        turns.append(Turn(message["role"], tuple(parts)))
    return Sample(tuple(turns), name)


def _part(one: Mapping[str, Any]) -> Part:
    if one["type"] == "text":
        return str(one.get("text", one.get("value", "")))
    if one["type"] not in ("image", "video", "audio"):
        raise SampleError(f"a part of type {one['type']!r} is not known")
    return Media(one["type"], one.get("url", one.get("value")))


def words(given: Mapping[str, Any]) -> dict[str, Any]:
    """How an answer is written; sampling counts where the harness asks for it."""
    found = {word: given[word] for word in ENDS if given.get(word) is not None}
    if not given.get("do_sample", bool(given.get("temperature"))):
        found.pop("temperature", None)
        found.pop("top_p", None)
    if until := given.get("until"):
        found["stop_strings"] = (until,) if isinstance(until, str) else tuple(until)
    return found


def lmms_eval() -> type:
    """The class for lmms-eval, made when it is asked for."""
    from lmms_eval.api.model import lmms

    class OmnimixForLmmsEval(lmms):  # type: ignore[misc]
        is_simple = False

        def __init__(
            self, pretrained: str = "nano", batch_size: int = 1, device: str | None = None, **_: Any
        ):
            super().__init__()
            from omnimix.generate.assistant import load

            self.assistant, self.batch_size = load(pretrained, device), int(batch_size)

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            return [self._answer(*request.args) for request in requests]

        def _answer(
            self, _: str, messages: Any, given: Mapping[str, Any], doc: Any, task: str, split: str
        ) -> str:
            asked = conversation(messages(self.task_dict[task][split][doc]), f"{task}-{doc}")
            return str(self.assistant.reply(asked, **words(given)).text)

        def loglikelihood(self, requests: Any) -> Any:
            raise NotImplementedError("omnimix writes answers; ask tasks that generate")

        def generate_until_multi_round(self, requests: Any) -> Any:
            raise NotImplementedError("omnimix answers one round at a time")

    return OmnimixForLmmsEval


def vlmevalkit() -> type:
    """The class for VLMEvalKit, made when it is asked for."""
    from vlmeval.vlm.base import BaseModel

    class OmnimixForVlmEvalKit(BaseModel):  # type: ignore[misc]
        INSTALL_REQ, INTERLEAVE = False, True

        def __init__(self, model_path: str = "nano", **given: Any):
            super().__init__()
            from omnimix.generate.assistant import load

            self.assistant, self.given = load(model_path), words(given)

        def generate_inner(
            self, message: Sequence[Mapping[str, Any]], dataset: str | None = None
        ) -> str:
            asked = Sample((Turn("user", tuple(map(_part, message))),), dataset or "question")
            return str(self.assistant.reply(asked, **self.given).text)

    return OmnimixForVlmEvalKit


def __getattr__(name: str) -> Any:
    """`LmmsEval` and `VlmEvalKit`, for harnesses that import a class by its name."""
    made = {"LmmsEval": lmms_eval, "VlmEvalKit": vlmevalkit}.get(name)
    if made is None:
        raise AttributeError(name)
    return made()
