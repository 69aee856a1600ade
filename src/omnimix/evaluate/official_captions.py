"""The COCO caption code's own scores, by the package pycocoevalcap."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnimix.errors import OmnimixError, reason
from omnimix.evaluate.captions import words
from omnimix.evaluate.measure import Measure, Reference, Score, worded
from omnimix.generate.answers import Answer


class CocoCaptions(Measure):
    """CIDEr of the COCO caption code, with BLEU and ROUGE-L beside it; METEOR, SPICE and its tokenizer where Java is.

    SPICE needs Stanford's parser beside the package, which its authors' code fetches: where that is missing, or Java
    cannot run it, the number is left out and the reason is noted.
    """

    def check(self, reference: Reference) -> None:
        worded(reference)

    def score(self, predictions: Sequence[Answer], references: Sequence[Reference]) -> Score:
        package()
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge

        java = shutil.which("java") is not None
        given = {i: [answer.text] for i, answer in enumerate(predictions)}
        truths = {i: list(reference.texts) for i, reference in enumerate(references)}
        given, truths = (_tokens(texts, java) for texts in (given, truths))
        with contextlib.redirect_stdout(io.StringIO()):  # it prints the lengths of what it compares
            cider, each = Cider().compute_score(truths, given)
            bleu, _ = Bleu(4).compute_score(truths, given, verbose=0)
            rouge, _ = Rouge().compute_score(truths, given)
        numbers = [
            *((f"bleu-{n}", float(one)) for n, one in enumerate(bleu, 1)),
            ("rouge-l", float(rouge)),
        ]
        if java:
            numbers.append(("meteor", meteor(truths, given)))
        notes = ["no METEOR and SPICE: there is no Java"]
        if java:
            found, why = spice(truths, given)
            numbers += [("spice", found)] if found is not None else []
            notes = [f"no SPICE: {why}"] if why else []
        numbers.append(("ptb tokens", float(java)))
        return Score(float(cider), tuple(map(float, each)), (), None, tuple(numbers), tuple(notes))


def meteor(truths: dict[int, list[str]], given: dict[int, list[str]]) -> float:
    """METEOR 1.5, by its authors' program."""
    from pycocoevalcap.meteor.meteor import Meteor

    program = Meteor()
    process = program.meteor_p
    found = float(program.compute_score(truths, given)[0])
    del program  # ends the process, and leaves its pipes open
    for pipe in (process.stdout, process.stderr):
        pipe.close()
    return found


PARSER = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
"""What SPICE needs in `pycocoevalcap/spice/lib`; the package does not bring it."""


def spice(truths: dict[int, list[str]], given: dict[int, list[str]]) -> tuple[float | None, str]:
    """The authors' SPICE (arXiv 1607.08822), or why there is none."""
    import pycocoevalcap.spice.spice as official

    place = Path(official.__file__).parent / "lib"
    if absent := [name for name in PARSER if not (place / name).is_file()]:
        return None, f"{' and '.join(absent)} of Stanford CoreNLP 3.6.0 are not in {place}"
    try:
        return float(official.Spice().compute_score(truths, given)[0]), ""
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return None, reason(error)


def package() -> None:
    """Refuse by name where the package is missing.

    Raises:
        OmnimixError: says how it is installed.
    """
    import importlib.util

    if importlib.util.find_spec("pycocoevalcap") is None:
        raise OmnimixError(
            "this needs the package pycocoevalcap, which is not installed",
            hint="install it with pip install 'omnimix[evaluate]', or score with cider",
        )


def _tokens(texts: dict[int, list[str]], java: bool) -> dict[int, list[str]]:
    """As the Penn Treebank's tokenizer splits them where Java is there, else as `captions.words` does."""
    if not java:
        return {item: [" ".join(words(text)) for text in many] for item, many in texts.items()}
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    captions = {item: [{"caption": text} for text in many] for item, many in texts.items()}
    found: Any = PTBTokenizer().tokenize(captions)
    return {item: list(many) for item, many in found.items()}
