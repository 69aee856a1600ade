"""Golden numbers that a model folder carries itself: a probe and what the model answered to it.

`omnimix convert` writes `certificate.json` (versions, sizes, largest differences) and `probe.safetensors`
(the picture's bytes, ids, logits); the folder can be checked anywhere, against itself.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from omnimix.checkpoints.files import write_json
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.convert.report import Check, close, same
from omnimix.types import Media, Sample, Turn

CERTIFICATE = "certificate.json"
PROBE = "probe.safetensors"
QUESTION = "What is in the picture?"
TOLERANCE = 1e-4
"""Largest difference between two layouts of one model, as a share of the largest number; float32 on the CPU."""

_PACKAGES = ("omnimix", "torch", "transformers", "timm", "safetensors")


def probe(model: MultimodalLM, processor: Processor) -> dict[str, Tensor]:
    """A fixed question (with a fixed picture where the model takes one) and what the model says to it."""
    rows, columns = np.mgrid[0:96, 0:160]
    # A soft gradient with an edge: every encoder sees structure, every resampling shows.
    picture = np.stack(
        [columns * 255 // 159, rows * 255 // 95, (rows > columns // 2) * 200], axis=-1
    ).astype(np.uint8)
    return {"picture": torch.from_numpy(picture), **answers(model, processor, picture)}


def answers(model: MultimodalLM, processor: Processor, picture: np.ndarray) -> dict[str, Tensor]:
    """Ids of the woven probe, the features in its holes, and logits of the text."""
    content: list[Any] = [QUESTION]
    if processor.recipe.modality_for("image") is not None:
        content.insert(0, Media.image(Image.fromarray(picture)))
    woven = processor.weave(Sample((Turn("user", tuple(content)),), "probe"), True)
    batch = processor.batch([woven], "left").to(next(model.parameters()).device)
    with torch.inference_mode():
        embeddings = model.embed(batch.input_ids, batch["items"], batch.item_places)
        logits = model(**batch.inputs()).logits
    return {
        "ids": torch.from_numpy(woven.ids),
        "owner": torch.from_numpy(woven.owner),
        "embeddings": embeddings[0].float().cpu().contiguous(),
        "logits": logits[0].float().cpu().contiguous(),
    }


def compare(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[Check]:
    """The stages of a probe; rounding grows with the numbers, so what is allowed does too."""
    near = {
        name: TOLERANCE * float(expected[name].abs().max()) for name in ("embeddings", "logits")
    }
    return [
        same("ids", "probe", found["ids"], expected["ids"]),
        same("ids", "owner", found["owner"], expected["owner"]),
        close(
            "embeddings", "probe", found["embeddings"], expected["embeddings"], near["embeddings"]
        ),
        close("logits", "probe", found["logits"], expected["logits"], near["logits"]),
    ]


def write(
    out: Path,
    expected: Mapping[str, Tensor],
    checks: list[Check],
    facts: Mapping[str, Any],
) -> None:
    """Put the certificate and the probe into a folder."""
    save_file({name: tensor.contiguous() for name, tensor in expected.items()}, out / PROBE)
    names = {path.name: path.stat().st_size for path in sorted(out.rglob("*")) if path.is_file()}
    certificate = {
        **facts,
        **where_made(),
        "bytes": names,
        "largest_differences": {
            check.stage: {"difference": check.difference, "tolerance": check.tolerance}
            for check in checks
        },
        "probe": {"file": PROBE, "question": QUESTION},
    }
    write_json(out / CERTIFICATE, certificate)


def where_made() -> dict[str, Any]:
    """Versions and the kind of machine."""
    return {
        "versions": {name: _version(name) for name in _PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:
        return "not installed"
