"""What each process of a test does: train files, and keep what gradients and batches were.

Called as `ranks.py PLAN.json`: `[{"name", "file", "out", "overrides", "press", "kill", "broken", "spoiled", "burst", "unlike", "unseen", "fails"}]`. Each
process writes `NAME/rankN.json` and its gradients.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, distributed as dist

from omnimix.compose.adapters import whole
from omnimix.compose.batch import Batch
from omnimix.data.sources import JsonlSource, Source
from omnimix.errors import OmnimixError, SampleError
from omnimix.generate.assistant import Assistant
from omnimix.parallel import process_group
from omnimix.train import checkpoint, loop, plan, run, step
from omnimix.train.watcher import Watcher
from omnimix.types import Media, Sample, Turn
from tests.train.matrix import Unlike

COLOURS = ("red", "green", "blue", "white")


class OneSense(Source):
    """Records with one item each, the senses turn about; a third of them has none. The eighth is broken."""

    length = 8

    def __getitem__(self, index: int) -> Sample:
        if index == 7:
            raise SampleError("a broken record")
        chance = np.random.default_rng(index)
        if index % 2:
            item = Media.audio((chance.normal(size=800).astype(np.float32) * 0.1, 16_000))
        else:
            noise = chance.integers(0, 255, (32, 40 + 8 * index, 3)).astype(np.uint8)
            item = Media.image(Image.fromarray(noise))
        front = () if index in (4, 5) else (item, "what ")
        asked = Turn("user", (*front, f"is here {index}?"))
        answer = COLOURS[index % 4] + " ring" * index
        return Sample((asked, Turn("assistant", (answer,))), str(index))


class Broken(OneSense):
    """One that cannot be read to its end."""

    def __getitem__(self, index: int) -> Sample:
        if index == 3:
            raise MemoryError("no memory is left")
        return super().__getitem__(index)


class Spoiled(OneSense):
    """Half of it is broken."""

    def __getitem__(self, index: int) -> Sample:
        if index % 2:
            raise SampleError("a broken record", where=f"line {index}")
        return super().__getitem__(index)


class Unseen(OneSense):
    """The first record cannot be read."""

    def __getitem__(self, index: int) -> Sample:
        if index == 0:
            raise SampleError("a record that is not there")
        return super().__getitem__(index)


class InTurn(plan.Mixture):
    """The records of a dataset one after another, so that each rank's sense is known."""

    def _record(self, which: int, index: int) -> int:
        return index % (self.sources[which].length or 1)


def _burst(*_: Any, **__: Any) -> None:
    raise MemoryError("no memory is left")


FAILING: dict[str, tuple[Any, str]] = {
    "step": (torch.optim.AdamW, "step"),
    "answers": (Assistant, "write_many"),
    "resume": (checkpoint, "_weights"),
}
"""What the second process alone can be made to fail in."""


class Told(Watcher):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def tell(self, sentence: str) -> None:
        self.said.append(sentence)


class Kept:
    """Gradients of every step by name, as they are before they are clipped, and who saw what."""

    def __init__(self) -> None:
        self.gradients: dict[str, Tensor] = {}
        self.senses: list[list[str]] = []
        self.bursts = False

    def optimizer_step(self, model: Any, *words: Any, **more: Any) -> Any:
        batches: list[Batch | None] = words[4]
        self.senses.append(sorted({name for b in batches if b is not None for name in b["items"]}))
        number = words[2]

        inner = more.pop("look", None)
        if self.bursts and number == 1:
            model.language.model.norm.register_forward_pre_hook(_burst)

        def look() -> None:
            if inner is not None:
                inner()
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    self.gradients[f"{number}/{name}"] = whole(parameter.grad).clone()

        return step.optimizer_step(model, *words, **more, look=look)


def trained(words: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Train a file as `words` say; what was found, and the gradients."""
    kept, rank = Kept(), process_group.join().rank
    found: dict[str, Any] = {"rank": rank, "size": process_group.join().size}

    def listen(line: dict[str, Any]) -> None:
        if line["step"] == words.get("press"):
            raise KeyboardInterrupt
        if line["step"] == words.get("kill"):
            os.kill(os.getpid(), signal.SIGTERM)

    source: Source = Broken() if words.get("broken") == rank else OneSense()
    if words.get("unseen") == rank:
        source = Unseen()
    if words.get("spoiled"):
        source = Spoiled()
    if words.get("unlike"):
        source = Unlike(words["unlike"])
    kept.bursts = words.get("burst") == rank
    watcher = Told()
    fails = words.get("fails") if rank else None
    with (
        mock.patch.object(*FAILING[fails], _burst) if fails else nullcontext(),
        mock.patch.object(JsonlSource, "open", lambda self, folder: source),
        mock.patch.object(plan, "Mixture", InTurn),
        mock.patch.object(loop, "optimizer_step", kept.optimizer_step),
    ):
        try:
            result = run.train(
                words["file"], words["overrides"], words["out"], listener=listen, watcher=watcher
            )
            found |= {"finished": result.finished, "steps": result.steps}
            found |= {"dropped": result.dropped.count, "signal": result.signal}
        except OmnimixError as error:
            found["error"] = error.sentence()
        except MemoryError as error:
            found["error"] = str(error)
    found["senses"], found["told"] = kept.senses, watcher.said
    return found, kept.gradients


def kept(words: dict[str, Any], folder: Path) -> None:
    """Train, and write down what was found."""
    found, gradients = trained(words)
    place = folder / words["name"]
    place.mkdir(exist_ok=True)
    (place / f"rank{found['rank']}.json").write_text(json.dumps(found))
    save_file(
        {name: tensor.contiguous() for name, tensor in gradients.items()},
        place / f"rank{found['rank']}.safetensors",
    )


def apart(words: dict[str, Any], folder: Path) -> None:
    """Train in a child, with a group that its error may end."""
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
        return
    status = 1
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        store = dist.FileStore(str(folder / f"{words['name']}.store"), size)  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
        if words["fails"] == "resume":
            trained({**words, "fails": None, "press": 2})
        kept(words, folder)
        process_group.current().leave()
        status = 0
    finally:
        os._exit(status)


def main(plan: Path) -> None:
    runs = json.loads(plan.read_text())
    # Children come first: a process with threads cannot be forked.
    for words in runs:
        if words.get("fails"):
            apart(words, plan.parent)
    for words in runs:
        if not words.get("fails"):
            kept(words, plan.parent)
    process_group.current().leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
