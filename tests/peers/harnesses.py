"""A script, not a test: nano through lmms-eval and VLMEvalKit, each in an environment that has it beside omnimix.

    python tests/peers/harnesses.py

VLMEvalKit is on PyPI as ms-vlmeval (and nvidia-vlmeval); installed with --no-deps it needs what it imports. lmms-eval finds the model by its entry point and runs a local task of drawn pictures, offline; the same rows are a
benchmark of ours, and its answers and score have to be ours. VLMEvalKit's class is asked by its own `generate`. Prints
what came out side by side and ends with 1 where something differs or neither is installed.
"""

from __future__ import annotations

import importlib.util
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import yaml

import omnimix
from omnimix.evaluate import harnesses
from omnimix.evaluate.answers import run
from omnimix_scenes.benchmark import ScenesBenchmark

TASK = "omnimix_mini"
ASKED = ("exists", "count", "spatial")
EACH = 8
TOKENS = 16
UTILS = """
import io
from PIL import Image

def visual(doc):
    return [Image.open(io.BytesIO(doc["image"])).convert("RGB")]

def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]
"""


def rows() -> list[dict[str, Any]]:
    """Questions about drawn pictures, with their answers."""
    found = []
    for task in ASKED:
        for index in range(EACH):
            sample = ScenesBenchmark().sample(task, index)
            (media,) = sample.media("image")
            out = io.BytesIO()
            media.data.save(out, "PNG")
            words = {"question_id": f"{task}-{index}", "question": sample.turns[0].text()}
            found.append({**words, "answer": sample.turns[1].text(), "image": out.getvalue()})
    return found


def ours(folder: Path) -> tuple[list[str], list[float], float]:
    """Answers, scores and the score of a benchmark of these rows."""
    row = {
        "title": "Drawn scenes",
        "licence": "none",
        "home": "https://example.org",
        "rows": {"files": ["rows.parquet"]},
        "id": "{question_id}",
        "pictures": ["=image"],
        "question": "{question}",
        "answers": "answer",
        "prompts": {"default": "{question}"},
        "measure": "exact",
        "max_new_tokens": TOKENS,
    }
    place = folder / "mini.yaml"
    place.write_text(yaml.safe_dump(row))
    found = run(omnimix.load("nano"), str(place), folder)
    answers = [item.line["answer"] for item in found.items]
    return answers, list(found.score.each), found.score.value


def lmms_eval(folder: Path) -> tuple[list[str], list[float], float]:
    """The same by lmms-eval's own command line's function."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    metric = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    task = {
        "task": TASK,
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.parquet")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_target": "answer",
        "generation_kwargs": {"max_new_tokens": TOKENS, "temperature": 0, "do_sample": False},
        "metric_list": [{**metric, "ignore_case": True}],
    }
    place = folder / "tasks"
    place.mkdir()
    functions = "doc_to_visual: !function utils.visual\ndoc_to_text: !function utils.text\n"
    (place / f"{TASK}.yaml").write_text(yaml.safe_dump(task) + functions)
    (place / "utils.py").write_text(UTILS)
    found = simple_evaluate(
        model="omnimix",
        model_args="pretrained=nano",
        tasks=[TASK],
        batch_size=1,
        task_manager=TaskManager("ERROR", include_path=str(place), model_name="omnimix"),
    )
    samples = sorted(found["samples"][TASK], key=lambda one: one["doc_id"])
    answers = [one["filtered_resps"][0] for one in samples]
    scores = [float(one["exact_match"]) for one in samples]
    return answers, scores, float(found["results"][TASK]["exact_match,none"])


def rescored(answers: list[str]) -> bool:
    """Our stored answers by lmms-eval's rules of POPE and VQAv2, beside our own measures of them."""
    from lmms_eval.tasks.pope import utils as pope
    from lmms_eval.tasks.vqav2 import utils as vqa

    from omnimix.evaluate.measure import Reference
    from omnimix.generate.answers import Answer
    from omnimix.registry import MEASURES

    truths = [row["answer"] for row in rows()]
    said = [Answer(text, (), 1, True) for text in answers]
    own = MEASURES.load("pope")().score(said[:EACH], [Reference((one,)) for one in truths[:EACH]])
    numbers = {"accuracy": own.value, **dict(own.numbers)}
    pairs = zip(answers[:EACH], truths[:EACH], strict=True)
    docs = [pope.pope_process_results({"answer": b, "question_id": 0}, [a]) for a, b in pairs]
    theirs = {
        "accuracy": pope.pope_aggregate_accuracy([one["pope_accuracy"] for one in docs]),
        "precision": pope.pope_aggregate_precision([one["pope_precision"] for one in docs]),
        "recall": pope.pope_aggregate_recall([one["pope_recall"] for one in docs]),
        "f1": pope.pope_aggregate_f1_score([one["pope_f1_score"] for one in docs]),
        "yes ratio": pope.pope_aggregate_yes_ratio([one["pope_yes_ratio"] for one in docs]),
    }
    people = [[truth] * 7 + ["3", "blue", "nothing"] for truth in truths]
    mine = MEASURES.load("vqa")().score(said, [Reference(tuple(one)) for one in people])
    each = [
        vqa.vqav2_process_results(
            {
                "question_id": 0,
                "answers": [{"answer": t, "answer_id": i} for i, t in enumerate(one)],
            },
            [text],
        )["exact_match"]
        for one, text in zip(people, answers, strict=True)
    ]
    numbers["vqa"], theirs["vqa"] = mine.value, sum(each) / len(each)
    for name, value in theirs.items():
        print(f"  {name}: lmms-eval {value:.6f}, omnimix {numbers[name]:.6f}")
    return all(abs(theirs[name] - numbers[name]) < 1e-9 for name in theirs)


def rescored_by_kit(answers: list[str]) -> bool:
    """Our stored answers by VLMEvalKit's rules of four kinds of benchmarks, beside our own measures of them."""
    from vlmeval.dataset.utils.vqa_eval import hit_calculate, process_line

    from omnimix.evaluate.measure import Reference
    from omnimix.generate.answers import Answer
    from omnimix.registry import MEASURES

    said, same = [Answer(text, (), 1, True) for text in answers], True
    rules = {
        "exact": ("accuracy", "OCRVQA", 1),
        "relaxed": ("relaxed_accuracy", "ChartQA", 1),
        "anls": ("anls", "DocVQA", 1),
        "vqa": ("vqa_score", "TextVQA", 10),
    }
    for name, (rule, like, people) in rules.items():
        truths = [[row["answer"]] * people for row in rows()]
        lines = [
            process_line({"answer": str(truth), "prediction": text}, rule)
            for truth, text in zip(truths, answers, strict=True)
        ]
        theirs = sum(map(float, hit_calculate(lines, like))) / len(lines)
        references = [Reference(tuple(truth)) for truth in truths]
        own = MEASURES.load(name)().score(said, references).value
        print(f"  {name}: VLMEvalKit {theirs:.6f}, omnimix {own:.6f}")
        same &= abs(theirs - own) < 1e-9
    return same


def vlmevalkit(folder: Path) -> tuple[list[str], list[float], float]:
    """The same rows as VLMEvalKit hands them over: a picture's path and a text."""
    kit, found = harnesses.VlmEvalKit("nano", max_new_tokens=TOKENS), []
    for row in rows():
        path = folder / f"{row['question_id']}.png"
        path.write_bytes(row["image"])
        parts = (("image", str(path)), ("text", row["question"]))
        message = [{"type": kind, "value": value} for kind, value in parts]
        found.append(kit.generate(message, "MMBench"))
    right = [
        float(a.lower() == row["answer"].lower()) for a, row in zip(found, rows(), strict=True)
    ]
    return found, right, sum(right) / len(right)


def main() -> int:
    peers = {"lmms_eval": lmms_eval, "vlmeval": vlmevalkit}
    here = {name: ask for name, ask in peers.items() if importlib.util.find_spec(name)}
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "0"}
    wrong = not here
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HF_HOME"] = scratch
        folder = Path(scratch) / "files"
        folder.mkdir()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows()), folder / "rows.parquet")
        own = ours(folder)
        print(f"omnimix: {own[2]:.6f} over {len(own[0])} questions")
        for name, ask in here.items():
            theirs = ask(folder)
            same = sum(a == b for a, b in zip(theirs[0], own[0], strict=True))
            print(f"{name}: {theirs[2]:.6f}; {same} of {len(own[0])} answers are the same")
            wrong |= theirs != own
        if "lmms_eval" in here:
            wrong |= not rescored(own[0])
        if "vlmeval" in here:
            wrong |= not rescored_by_kit(own[0])
    print("something differs, or neither is installed" if wrong else "the same everywhere")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
