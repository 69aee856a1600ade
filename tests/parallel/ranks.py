"""What each of two processes does in `test_ranks.py`: `torchrun ... ranks.py PLAN`, results beside the plan.

The plan is JSON: models (name to folder) and a picture. Every rank writes what it saw to `rankN.json` and
the logits of a probe to `rankN.safetensors`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

import omnimix
from omnimix.compose.modality import Branch
from omnimix.convert import certificate
from omnimix.errors import OmnimixError
from omnimix.generate.assistant import Assistant
from omnimix.prompts.questions import question

QUESTION = "What is in the picture?"


def held(assistant: Assistant) -> dict[str, int]:
    """Numbers of the language model, whole and on this rank."""
    parameters = list(assistant.model.language.parameters())
    own = [p.to_local() if isinstance(p, DTensor) else p for p in parameters]
    return {"whole": sum(p.numel() for p in parameters), "own": sum(p.numel() for p in own)}


def shares(assistant: Assistant) -> list[int]:
    """Tiles that this rank's encoders see when three pictures are asked about."""
    seen: list[int] = []
    [branch] = [m for m in assistant.model.modules() if isinstance(m, Branch)][:1]
    handle = branch.encoders[0].register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    tiles = torch.arange(3 * 3 * 8 * 8, dtype=torch.float32).view(3, 3, 8, 8)
    assert branch.spread is not None
    gathered = branch.spread(lambda share: share * 2, tiles)
    assert torch.equal(gathered, tiles * 2)
    handle.remove()
    return seen


def said(work: Any) -> str:
    """The error that some work ends in."""
    try:
        work()
    except Exception as error:
        kind = type(error).__name__
        return error.sentence() if isinstance(error, OmnimixError) else f"{kind}: {error}"
    return "nothing"


def errors(assistant: Assistant, picture: str) -> dict[str, str]:
    """What each rank is told when something goes wrong on the second alone."""
    second = assistant.process_group.rank == 1
    found = {
        "file": said(lambda: assistant.answer("a?", image="/nowhere.png" if second else picture)),
        "input": said(lambda: assistant.answer("a?" if second else "b?", image=picture)),
        "between": said(lambda: assistant.answer("a?", image=picture)),
    }
    if second:

        def broken(*_: Any) -> None:
            raise MemoryError("no memory is left")

        assistant.model.language.model.layers[0].mlp.forward = broken
    found["inside"] = said(lambda: assistant.answer("a?", image=picture))
    found["after"] = said(lambda: assistant.answer("a?", image=picture))
    return found


def main(plan: Path) -> None:
    torch.manual_seed(torch.initial_seed())
    words = json.loads(plan.read_text())
    tensors: dict[str, Tensor] = {}
    results: dict[str, Any] = {"models": {}}
    picture = words["picture"]
    for name, folder in words["models"].items():
        assistant = omnimix.load(folder, dtype=torch.float32, parallel="tensor")
        probed = certificate.probe(assistant.model, assistant.processor)
        tensors[f"{name}.logits"] = probed["logits"]
        turns = [question(QUESTION, [picture], [])]
        written = assistant.reply(turns, max_new_tokens=words["tokens"])
        results["models"][name] = {"ids": list(written.ids), "held": held(assistant)}
    assistant = omnimix.load(words["models"]["tiny"], parallel="tensor")
    rank = assistant.process_group.rank
    turns = [question(QUESTION, [picture], [])]
    hot = {"temperature": 5.0, "max_new_tokens": 12}
    results["sampled"] = [list(assistant.reply(turns, **hot).ids) for _ in range(2)]
    results["seeded"] = list(assistant.reply(turns, seed=3, **hot).ids)
    results["streamed"] = "".join(assistant.stream(turns, max_new_tokens=12))
    stream = assistant.stream(turns, max_new_tokens=200, seed=1, temperature=5.0)
    if rank == 0:  # the others write on until the first has closed its own
        next(stream)
        stream.close()  # type: ignore[attr-defined]
    else:
        list(stream)
    shares(assistant)
    results["errors"] = errors(assistant, picture)
    (plan.parent / f"rank{rank}.json").write_text(json.dumps(results))
    save_file(
        {name: tensor.clone() for name, tensor in tensors.items()},
        plan.parent / f"rank{rank}.safetensors",
    )
    assistant.process_group.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
