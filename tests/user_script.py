"""What somebody writes who uses omnimix; `make check` reads its types as a stranger's mypy and pyright would."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import omnimix
from omnimix import Assistant, Box, Media, Point, Processor, Sample, Turn
from omnimix.compose.batch import Batch


def ask(picture: Path) -> str:
    """A question about a box on a picture, and the batch that it becomes."""
    model = omnimix.load("nano")
    assert_type(model, Assistant)
    answer = model.answer("What is in the box?", image=picture, regions=[Box(1, 2, 30, 40)])
    assert_type(answer, str)
    sample = Sample((Turn("user", (Media.image(str(picture)), "Where is it?")),), "mine")
    processor: Processor = model.processor
    assert_type(processor([sample], open_answer=True), Batch)
    assert_type(processor(text="<image> What is it?", images=picture), Batch)
    boxes = model.reply(sample).boxes
    assert_type(boxes, tuple[Box | Point, ...])
    return f"{answer} {boxes}"
