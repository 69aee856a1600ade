"""The proof that a model folder carries itself, read again: a probe of one model, or the norms of a mixed one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from omnimix.convert import certificate, mixing
from omnimix.convert.report import Verdict
from omnimix.convert.verifying import Reading
from omnimix.errors import CheckpointError
from omnimix.generate import folder as folders


def verify_model(folder: Path) -> Verdict:
    """Ask a model folder its own probe again; of a mixed one, compute the norms again.

    Raises:
        CheckpointError: a certificate or probe that cannot be read, or a model that cannot be loaded.
    """
    try:
        facts = json.loads((folder / certificate.CERTIFICATE).read_text(encoding="utf-8"))
        if facts.get("kind") == mixing.KIND:
            return mixing.verify_soup(folder, facts)
        expected = load_file(folder / certificate.PROBE)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"the golden numbers cannot be read ({error})",
            where=str(folder),
            hint="convert the model again",
        ) from None
    place = folder / str(facts.get("model", "."))
    model, processor = folders.read(place, torch.device("cpu"))
    answers = certificate.answers(model, processor, expected["picture"].numpy())
    return Verdict(folder.resolve().name, certificate.compare(answers, expected))


class CertificateReading(Reading):
    """A model folder that `omnimix convert` or `omnimix soup` wrote."""

    def recognise(self, folder: Path) -> bool:
        return (folder / certificate.CERTIFICATE).is_file()

    def verify(self, folder: Path, stop: bool) -> Verdict:
        return verify_model(folder)
