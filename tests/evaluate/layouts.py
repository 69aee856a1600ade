"""Miniatures of official layouts: a few rows each, odd ones among them, made where a test wants them."""

from __future__ import annotations

import base64
import io
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image

SIZE = (80, 60)


def picture(path: Path, colour: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, colour).save(path)


def png(colour: str = "red") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", SIZE, colour).save(out, "PNG")
    return out.getvalue()


def dump(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def lines(path: Path, rows: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n"
    )


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def ten(*answers: str) -> list[dict[str, Any]]:
    many = [*answers, *([answers[-1]] * (10 - len(answers)))]
    return [
        {"answer": one, "answer_confidence": "yes", "answer_id": i} for i, one in enumerate(many, 1)
    ]


def coco_vqa(questions: str, annotations: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        rows = [{"question_id": 10 + i, "image_id": 7, "question": f"What {i}?"} for i in range(3)]
        rows.append({"question_id": 20, "image_id": 8, "question": "Whose picture is missing?"})
        rows.append({"question_id": 21, "image_id": 7, "question": "Who has no annotation?"})
        truths = [ten("two", "2"), ten("yes"), ten("red car!", "red car"), ten("no")]
        known = [
            {
                "question_id": row["question_id"],
                "image_id": 7,
                "answers": truth,
                "answer_type": "other",
                "question_type": "what",
            }
            for row, truth in zip(rows, truths, strict=False)
        ]
        dump(folder / questions, {"info": {}, "data_type": "mscoco", "questions": rows})
        dump(folder / annotations, {"annotations": known})
        picture(folder / "val2014/COCO_val2014_000000000007.jpg")

    return make


def gqa(folder: Path) -> None:
    row = {
        "imageId": "n1",
        "question": "Is it red?",
        "answer": "yes",
        "types": {"structural": "verify"},
    }
    dump(
        folder / "testdev_balanced_questions.json",
        {"201": row, "202": {**row, "answer": "left"}, "203": {**row, "types": None}},
    )
    picture(folder / "images/n1.jpg")


def vizwiz(folder: Path) -> None:
    row = {
        "image": "VizWiz_val_00000000.jpg",
        "question": "Ok. What is this?",
        "answer_type": "other",
        "answerable": 1,
    }
    other = {**row, "image": "VizWiz_val_00000001.jpg", "answers": ten("unanswerable")}
    dump(folder / "val.json", [{**row, "answers": ten("basil")}, other, "torn"])
    for name in (row["image"], other["image"]):
        picture(folder / "val" / str(name))


def textvqa(folder: Path) -> None:
    row = {
        "question_id": 1,
        "image_id": "abc",
        "question": "Which brand?",
        "answers": ["nokia"] * 10,
    }
    dump(
        folder / "TextVQA_0.5.1_val.json",
        {
            "dataset_type": "val",
            "data": [row, {**row, "question_id": 2, "answers": ["dakota's", "dakota"] * 5}],
        },
    )
    dump(
        folder / "TextVQA_Rosetta_OCR_v0.2_val.json",
        {"data": [{"image_id": "abc", "ocr_tokens": ["NOKIA", "2"]}]},
    )
    picture(folder / "train_images/abc.jpg")


def ocrvqa(folder: Path) -> None:
    book = {
        "questions": ["Who wrote it?", "Which year?"],
        "answers": ["Ann", "1999"],
        "genre": "Art",
        "split": 3,
    }
    dump(
        folder / "dataset.json",
        {"b1": book, "b2": {**book, "split": 1}, "b3": {**book, "questions": None}},
    )
    picture(folder / "images/b1.jpg")


def docvqa(name: str, field: str, folder_name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        row = {
            "questionId": 5,
            "question": "Which date?",
            field: f"{folder_name}d1.png",
            "answers": ["1/8/93", "January 8"],
        }
        dump(
            folder / name,
            {"dataset_name": "x", "data": [row, {**row, "questionId": 6, "answers": []}]},
        )
        picture(folder / ("documents/d1.png" if folder_name else "images/d1.png"))

    return make


def chartqa(folder: Path) -> None:
    row = {"imgname": "c.png", "query": "How many?", "label": "100"}
    dump(folder / "test/test_human.json", [row, {**row, "label": "Yes"}])
    dump(folder / "test/test_augmented.json", [row])
    picture(folder / "test/png/c.png")


def tallyqa(folder: Path) -> None:
    row = {
        "question_id": 1,
        "image": "VG_100K/1.jpg",
        "question": "How many cats?",
        "answer": 2,
        "issimple": True,
    }
    dump(folder / "test.json", [row, {**row, "question_id": 2, "answer": 12, "issimple": False}])
    picture(folder / "VG_100K/1.jpg")


def ocrbench(folder: Path) -> None:
    row = {
        "id": 0,
        "dataset_name": "IIIT5K",
        "image_path": "I/1.png",
        "question": "what is written?",
        "answers": ["CENTRE"],
        "type": "Regular",
    }
    dump(folder / "OCRBench.json", [row, {**row, "id": 1, "answers": "x ^ 2", "type": "HME100k"}])
    picture(folder / "OCRBench_Images/I/1.png")


def mathvista(folder: Path) -> None:
    row = {
        "pid": "1",
        "query": "Hint: ...\nQuestion: How long?",
        "answer": "1.20",
        "question_type": "free_form",
        "decoded_image": {"bytes": png(), "path": None},
    }
    parquet(
        folder / "data/testmini-00000-of-00001.parquet", [row, {**row, "pid": "2", "answer": "two"}]
    )


def vsr(folder: Path) -> None:
    row = {
        "image": "a.jpg",
        "caption": "The cat is on the mat.",
        "label": 1,
        "relation": "on",
        "subj": "cat",
        "obj": "mat",
    }
    lines(folder / "test.jsonl", [row, {**row, "label": 0}, '{"image": "a.jpg", "cap'])
    picture(folder / "images/a.jpg")


def pope(folder: Path) -> None:
    row = {
        "question_id": 1,
        "image": "COCO_val2014_000000000007.jpg",
        "text": "Is there a cat?",
        "label": "yes",
    }
    for name in ("random", "popular", "adversarial"):
        lines(folder / f"coco_pope_{name}.json", [row, {**row, "question_id": 2, "label": "no"}])
    picture(folder / "val2014/COCO_val2014_000000000007.jpg")


def mme(folder: Path) -> None:
    pairs = "Is it red? Please answer yes or no.\tYes\nIs it blue? Please answer yes or no.\tNo\n"
    for task, name in (("existence", "0"), ("existence", "1"), ("code_reasoning", "0")):
        (folder / task).mkdir(parents=True, exist_ok=True)
        (folder / task / f"{name}.txt").write_text(pairs)
        picture(folder / task / f"{name}.png")
    (folder / "landmark/questions_answers_YN").mkdir(parents=True)
    (folder / "landmark/questions_answers_YN/a.txt").write_text(pairs + "torn line\n")
    picture(folder / "landmark/images/a.jpg")


def nocaps(folder: Path) -> None:
    images = [
        {"id": i, "file_name": f"{i}.jpg", "domain": d}
        for i, d in ((0, "in-domain"), (1, "out-domain"))
    ]
    captions = [
        {"image_id": i, "caption": text}
        for i, text in (
            (0, "a red cat on a mat"),
            (0, "a cat lies there"),
            (1, "two dogs in the snow"),
        )
    ]
    dump(
        folder / "nocaps_val_4500_captions.json",
        {"licenses": [], "info": {}, "images": images, "annotations": captions},
    )
    for i in (0, 1):
        picture(folder / f"validation/{i}.jpg")


def mm_vet(folder: Path) -> None:
    row = {
        "imagename": "v1_0.png",
        "question": "What is x?",
        "answer": "-1<AND>-5",
        "capability": ["ocr", "math"],
    }
    dump(folder / "mm-vet.json", {"v1_0": row, "v1_1": {**row, "answer": "a {curly} one"}})
    picture(folder / "images/v1_0.png")


def ai2d(folder: Path) -> None:
    question = {
        "abcLabel": False,
        "answerTexts": ["frog", "bird", "fish", "{x}"],
        "correctAnswer": 1,
        "questionId": "0.png-0",
    }
    bad = {**question, "correctAnswer": 9, "questionId": "0.png-1"}
    dump(
        folder / "questions/0.png.json",
        {"imageName": "0.png", "questions": {"Who eats {it}?": question, "Who else?": bad}},
    )
    picture(folder / "images/0.png")


def scienceqa(folder: Path) -> None:
    row = {
        "image": {"bytes": png(), "path": "image.png"},
        "question": "Which?",
        "choices": ["a", "b", "c"],
        "answer": 2,
        "hint": "Look.",
        "subject": "natural science",
    }
    parquet(folder / "data/test-00000-of-00001.parquet", [row, {**row, "image": None}])


def mmmu(folder: Path) -> None:
    row: dict[str, Any] = {
        "id": "validation_Art_1",
        "question": "<image 1> or <image 2>?",
        "options": "['one', \"two's\"]",
        "answer": "B",
        "question_type": "multiple-choice",
    }
    row |= {
        f"image_{i}": {"bytes": png("blue" if i == 2 else "red"), "path": ""} if i < 3 else None
        for i in range(1, 8)
    }
    rows = [row, {**row, "id": "validation_Art_2", "question_type": "open", "options": "[]"}]
    parquet(folder / "Art/validation-00000-of-00001.parquet", rows)


def mmbench(folder: Path) -> None:
    data = base64.b64encode(png()).decode()
    rows = [
        "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage",
        f"3\tWhich?\tSee.\tcat\tdog\t\t\tA\tscene\t{data}",
        "1000003\tWhich?\tSee.\tdog\tcat\t\t\tB\tscene\t3",
        f"4\tWhat?\t\tcat\tdog\tcow\thorse\tD\tscene\t{data}",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mmbench_dev_20230712.tsv").write_text("\n".join(rows) + "\n")


def seed(folder: Path) -> None:
    row = {
        "answer": "C",
        "choice_a": "1",
        "choice_b": "2",
        "choice_c": "3",
        "choice_d": "4",
        "data_id": "1.jpg",
        "data_type": "image",
        "question": "How many?",
        "question_id": "101669",
        "question_type_id": 5,
    }
    dump(
        folder / "SEED-Bench.json",
        {"questions": [row, {**row, "question_id": "v", "data_type": "video"}]},
    )
    picture(folder / "SEED-Bench-image/1.jpg")


def q_bench(folder: Path) -> None:
    row = {
        "img_path": "1.jpg",
        "question": "How is the light?",
        "type": 1,
        "concern": 2,
        "candidates": ["High", "Low"],
        "correct_ans": "Low",
    }
    dump(folder / "llvisionqa_dev.json", [row, {**row, "correct_ans": "Middle"}])
    picture(folder / "images/1.jpg")


def realworldqa(folder: Path) -> None:
    row = {
        "image": {"bytes": png(), "path": ""},
        "question": "Which way?\nA. left\nB. right\nPlease answer directly with only the letter.",
        "answer": "A",
    }
    parquet(folder / "data/test-00000-of-00002.parquet", [row])
    parquet(folder / "data/test-00001-of-00002.parquet", [{**row, "answer": "B"}])


def refer(name: str, split_by: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        ref = {
            "ref_id": 1,
            "ann_id": 70,
            "image_id": 7,
            "split": "val",
            "sentences": [{"sent_id": 1, "sent": "left cat"}, {"sent_id": 2, "sent": "grey cat"}],
        }
        place = folder / name / f"refs({split_by}).p"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(pickle.dumps([ref, {**ref, "ref_id": 2, "split": "train"}], protocol=2))
        dump(
            folder / name / "instances.json", {"annotations": [{"id": 70, "bbox": [0, 0, 40, 30]}]}
        )
        picture(folder / "train2014/COCO_train2014_000000000007.jpg")

    return make


def ocid(folder: Path) -> None:
    row = {
        "scene_path": "ARID20/floor/1.png",
        "bbox": "[8, 6, 48, 36]",
        "sentence": "the box",
        "take_id": 9,
    }
    dump(
        folder / "val_expressions.json",
        {"1": row, "2": {**row, "take_id": 17}, "3": {**row, "take_id": 21}},
    )
    picture(folder / "OCID-dataset/ARID20/floor/1.png")


def marked(name: str, answer: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        row = {
            "image_name": "1.jpg",
            "question_id": 1,
            "question": "Please name <Region 1>.",
            "bbox": [[8, 6, 20, 20]],
            "gt_answers": answer,
        }
        points = {key: value for key, value in row.items() if key != "bbox"} | {
            "question_id": 2,
            "points": [[10, 10]],
        }
        dump(folder / name, [row, points])
        picture(folder / "1.jpg")

    return make


def ferret(part: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        row = {
            "question_id": 0,
            "image": "1.jpg",
            "category": part,
            "text": "What is [0.1, 0.1, 0.5, 0.5]?",
        }
        torn = {**row, "question_id": 2, "text": "What is there?"}
        lines(folder / part / "question.jsonl", [row, torn, '{"question_id"'])
        lines(
            folder / part / "answer.jsonl",
            [{**row, "text": "The object is a cat."}, {**torn, "text": "Snow."}],
        )
        picture(folder / "val2017/1.jpg")

    return make


def without_answers(name: str, at: str, row: dict[str, Any], shown: str) -> Callable[[Path], None]:
    """A set whose answers a server keeps."""

    def make(folder: Path) -> None:
        dump(folder / name, {at: [row]} if at else [row])
        picture(folder / shown)

    return make


ASKED = {"question_id": 5, "questionId": 5, "question": "What?", "image_id": 7, "image": "7.jpg"}

MAKERS: dict[str, Callable[[Path], None]] = {
    "vqav2": coco_vqa(
        "v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"
    ),
    "okvqa": coco_vqa("OpenEnded_mscoco_val2014_questions.json", "mscoco_val2014_annotations.json"),
    "gqa": gqa,
    "vizwiz": vizwiz,
    "textvqa": textvqa,
    "textvqa-ocr": textvqa,
    "ocrvqa": ocrvqa,
    "docvqa": docvqa("val_v1.0_withQT.json", "image", "documents/"),
    "infovqa": docvqa("infographicsVQA_val_v1.0_withQT.json", "image_local_name", ""),
    "chartqa": chartqa,
    "tallyqa": tallyqa,
    "tallyqa-letters": tallyqa,
    "ocrbench": ocrbench,
    "mathvista": mathvista,
    "vsr": vsr,
    "pope": pope,
    "mme": mme,
    "nocaps": nocaps,
    "mm-vet": mm_vet,
    "ai2d": ai2d,
    "scienceqa": scienceqa,
    "mmmu": mmmu,
    "mmbench": mmbench,
    "seed": seed,
    "q-bench": q_bench,
    "realworldqa": realworldqa,
    "refcoco": refer("refcoco", "unc"),
    "refcoco+": refer("refcoco+", "unc"),
    "refcocog": refer("refcocog", "umd"),
    "ocid-ref": ocid,
    "mdvp-bench": marked("natural_QA/natural_QA_box.json", "A cat."),
    "lvis-regions": marked("LVIS_box.json", "Region 1: cat"),
    "paco-regions": marked("PACO_point.json", "Region 1: mug:handle"),
    "regional-ocr": marked("COCOText_box.json", "Region 1: STOP"),
    "refcocog-captions": marked("RefCOCOg_brief_caption.json", "Region 1: the cat on the left\n"),
    "osprey-80": marked("Osprey_80_detail_caption.json", "Region 1: A grey cat.\n"),
    "ferret-reasoning": ferret("refer_reason"),
    "ferret-description": ferret("refer_caption"),
    "vqav2-test": without_answers(
        "v2_OpenEnded_mscoco_test2015_questions.json",
        "questions",
        ASKED,
        "test2015/COCO_test2015_000000000007.jpg",
    ),
    "vizwiz-test": without_answers("test.json", "", ASKED, "test/7.jpg"),
    "textvqa-test": without_answers("TextVQA_0.5.1_test.json", "data", ASKED, "test_images/7.jpg"),
    "docvqa-test": without_answers("test_v1.0.json", "data", ASKED, "7.jpg"),
}
