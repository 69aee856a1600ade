"""A script, not a test: nano through lmms-eval and VLMEvalKit, each in an environment that has it beside omnimix.

    python tests/peers/harnesses.py

Prints which of the two are here and that the same question gets the answer that omnimix gives by itself; ends with 1
where an answer differs or neither is installed.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

from PIL import Image

import omnimix
from omnimix.evaluate import harnesses

QUESTION = "What is this?"


def main() -> int:
    picture = Image.new("RGB", (96, 96), "red")
    own = omnimix.load("nano").answer(QUESTION, image=picture, max_new_tokens=8)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        picture.save(path)
        if importlib.util.find_spec("lmms_eval"):
            model = harnesses.LmmsEval("nano")
            model.task_dict = {"t": {"test": [0]}}
            content = [{"type": "image", "url": picture}, {"type": "text", "text": QUESTION}]
            messages = [{"role": "user", "content": content}]
            args = ("", lambda doc: messages, {"max_new_tokens": 8}, 0, "t", "test")
            (found["lmms-eval"],) = model.generate_until([SimpleNamespace(args=args)])
        if importlib.util.find_spec("vlmeval"):
            kit = harnesses.VlmEvalKit("nano", max_new_tokens=8)
            said = [{"type": "image", "value": str(path)}, {"type": "text", "value": QUESTION}]
            found["VLMEvalKit"] = kit.generate_inner(said)
    for name, answer in found.items():
        print(f"{name}: {answer!r} ({'same' if answer == own else f'own: {own!r}'})")
    return int(not found or any(answer != own for answer in found.values()))


if __name__ == "__main__":
    sys.exit(main())
