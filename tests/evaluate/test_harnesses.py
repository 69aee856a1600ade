"""A model inside other harnesses, by the interfaces that they publish; `tests/peers/harnesses.py` runs the real ones."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from omnimix.errors import SampleError
from omnimix.evaluate import harnesses


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> None:
    def module(name: str, **words: Any) -> None:
        made = ModuleType(name)
        vars(made).update(words)
        monkeypatch.setitem(sys.modules, name, made)

    for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.models", "vlmeval", "vlmeval.vlm"):
        module(name)
    module("lmms_eval.api.model", lmms=type("lmms", (), {}))
    module("lmms_eval.models.registry_v2", ModelManifest=lambda *a, **k: (a, k))
    module("vlmeval.vlm.base", BaseModel=type("BaseModel", (), {}))


@pytest.mark.usefixtures("peers")
def test_both_harnesses_get_the_same_answer(tiny_folder: Path, tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 30), "red")
    picture.save(tmp_path / "a.png")
    ours = harnesses.LmmsEval(str(tiny_folder))
    ours.task_dict = {"task": {"test": [{"text": "What is this?"}]}}

    def messages(doc: dict[str, str]) -> list[dict[str, Any]]:
        parts = [{"type": "image", "url": picture}, {"type": "text", "text": doc["text"]}]
        return [{"role": "user", "content": parts}]

    given = {"max_new_tokens": 4, "temperature": 0, "top_p": None, "num_beams": 1}
    request = SimpleNamespace(args=("", messages, given, 0, "task", "test"))
    (answer,) = ours.generate_until([request])
    kit = harnesses.VlmEvalKit(str(tiny_folder), max_new_tokens=4)
    said = [
        {"type": "image", "value": str(tmp_path / "a.png")},
        {"type": "text", "value": "What is this?"},
    ]
    assert kit.generate_inner(said, "MMBench") == answer and answer
    assert harnesses.manifest()[0] == ("omnimix",) and not ours.is_simple
    with pytest.raises(SampleError, match="'table' is not known"):
        kit.generate_inner([{"type": "table", "value": ""}])


def test_writing_words_and_the_entry_point() -> None:
    assert harnesses.words({"until": "\n\n", "temperature": 0.7, "do_sample": False}) == {
        "stop_strings": ("\n\n",)
    }
    assert harnesses.words({"temperature": 0.7, "top_p": 0.9}) == {"temperature": 0.7, "top_p": 0.9}
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert 'omnimix = "omnimix.evaluate.harnesses:manifest"' in text
    known = [one.value for one in entry_points(group="lmms_eval.models") if one.name == "omnimix"]
    assert known in ([], ["omnimix.evaluate.harnesses:manifest"])  # none until it is installed anew
