"""Measures of benchmarks on examples worked out by their authors' rules; each says where it comes from."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from omnimix.errors import OmnimixError, RegistryError
from omnimix.evaluate import parsing, similar
from omnimix.evaluate.captions import Cider
from omnimix.evaluate.measure import Reference
from omnimix.evaluate.official_captions import PARSER, CocoCaptions, spice
from omnimix.evaluate.scores import said_no
from omnimix.generate.answers import Answer
from omnimix.registry import MEASURES
from omnimix.types import Box

GOLDEN = Path(__file__).parents[2] / "golden/cases"


def said(text: str, *boxes: Box) -> Answer:
    return Answer(text, boxes, 1, True)


def true(*texts: str, **words: Any) -> Reference:
    return Reference(texts, **words)


@pytest.mark.parametrize(
    ("answers", "given", "score"),
    [
        # M4C's evaluator: the mean over the ten people of min(1, how many of the other nine agree / 3).
        (["nokia"] * 10, "Nokia.", 1.0),
        (["nokia"] * 3 + ["sony"] * 7, "nokia", (3 * (2 / 3) + 7 * 1.0) / 10),
        (["nokia"] * 2 + ["sony"] * 8, "nokia", (2 * (1 / 3) + 8 * (2 / 3)) / 10),
        (["nokia"] + ["sony"] * 9, "nokia", (0 + 9 * (1 / 3)) / 10),
        (["nokia"] * 10, "", 0.0),
        # Both sides are normalised, articles and numbers too.
        (["the two"] * 10, "2", 1.0),
        (["bob's"] * 10, "Bob 's", 1.0),
    ],
)
def test_text_vqa(answers: list[str], given: str, score: float) -> None:
    found = MEASURES.load("textvqa")().score([said(given)], [true(*answers)])
    assert found.value == pytest.approx(score)


@pytest.mark.parametrize(
    ("text", "no"),
    [
        # As in evaluate.py of AoiDragon/POPE: the first sentence, split at blanks.
        ("No, there is none.", True),
        ("There is not a cat", True),
        ("Yes. No.", False),
        ("NO", False),
        ("nothing", False),
        ("", False),
    ],
)
def test_pope_reads_as_its_script(text: str, no: bool) -> None:
    assert said_no(text) is no


def test_pope_counts() -> None:
    answers = [said(text) for text in ("yes", "yes", "yes", "no")]
    found = MEASURES.load("pope")().score(
        answers, [true(one) for one in ("yes", "no", "yes", "yes")]
    )
    assert found.value == 0.5
    # 2 of 3 that were said are right, 2 of 3 that are right were said.
    assert dict(found.numbers) == pytest.approx(
        {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "yes ratio": 0.75}
    )


def test_mme_adds_whole_pictures() -> None:
    """Two pictures of two questions: 3 of 4 right, one picture whole: 75 + 50 (arXiv 2306.13394)."""
    answers = [said(text) for text in ("Yes", "no", "yes", "yes", "Yes.")]
    references = [
        true(text, group=group, picture=picture)
        for text, group, picture in (
            ("Yes", "color", "a"),
            ("No", "color", "a"),
            ("Yes", "color", "b"),
            ("No", "color", "b"),
            ("Yes", "code_reasoning", "c"),
        )
    ]
    found = MEASURES.load("mme")().score(answers, references)
    assert found.value == 125 and dict(found.groups) == {"color": 125, "code_reasoning": 200}
    assert dict(found.numbers) == {"cognition": 200, "total": 325} and found.each == (1, 1, 1, 0, 1)


def test_circular_counts_a_question_once() -> None:
    references = [true("A", name="3"), true("B", name="1000003"), true("A", name="4")]
    found = MEASURES.load("circular")().score([said("A"), said("A"), said("A")], references)
    assert found.value == 0.5 and dict(found.numbers) == {"each order": pytest.approx(2 / 3)}


@pytest.mark.parametrize(
    ("name", "overlap", "score"),
    [
        ("referring", 0.5, 1),
        ("referring", 0.49, 0),
        ("referring25", 0.25, 1),
        ("referring25", 0.24, 0),
    ],
)
def test_overlap_at_the_threshold(name: str, overlap: float, score: float) -> None:
    reference = true(boxes=(Box(0, 0, 100, 100),), size=(100, 100))
    measure = MEASURES.load(name)()
    assert measure.one(said("", Box(0, 0, 100, 100 * overlap)), reference) == score
    assert measure.one(said(f"[0, 0, 1, {overlap}]"), reference) == score
    assert measure.one(said("nowhere"), reference) == 0


@pytest.mark.parametrize(
    ("text", "choices", "letter"),
    [
        ("B", ["cat", "dog"], "B"),
        ("(b)", ["cat", "dog"], "B"),
        ("B. dog", ["cat", "dog"], "B"),
        ("The answer is B", ["cat", "dog"], "B"),
        ("Answer: (A).", ["cat", "dog"], "A"),
        ("dog", ["cat", "dog"], "B"),
        ("It is the dog.", ["cat", "dog"], "B"),
        ("A dog", ["cat", "dog"], "B"),
        ("I think (B) fits", ["cat", "dog"], "B"),
        ("either a cat or a dog", ["cat", "dog"], ""),
        ("E", ["cat", "dog"], ""),
        ("", ["cat", "dog"], ""),
        ("no idea", ["cat", "dog"], ""),
    ],
)
def test_letters(text: str, choices: list[str], letter: str) -> None:
    assert parsing.letter(text, choices) == letter


def test_other_readings() -> None:
    assert [parsing.number(one) for one in ("About 1,204 of them", "two", "-3.5", "none")] == [
        "1204",
        "2",
        "-3.5",
        "",
    ]
    assert [parsing.true_false(one) for one in ("True.", "no", '"False"', "perhaps")] == [
        "True",
        "False",
        "False",
        "",
    ]
    read = parsing.unit_box(said("[0.5, 0, 1, 1]"), (80, 40))
    assert (
        read.regions == (Box(40, 0, 80, 40),) and not parsing.unit_box(said("?"), (80, 40)).regions
    )
    with pytest.raises(RegistryError, match="Did you mean 'letter'"):
        parsing.parser("leter")


PREDICTIONS = ("a red cat on a mat", "a bird", "two dogs play in snow")
REFERENCES = (
    ("a red cat on a mat", "a cat lies there"),
    ("two dogs in the snow",),
    ("two dogs playing in the snow", "dogs"),
)


def test_captions_as_the_coco_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of pycocoevalcap 1.2, with its tokenizer; without the package the measure is refused by name."""
    answers, references = [said(one) for one in PREDICTIONS], [true(*one) for one in REFERENCES]
    own = Cider().score(answers, references)
    assert own.each == pytest.approx((5.418058971994749, 0.0, 0.7751001838588631))
    monkeypatch.setattr(shutil, "which", lambda name: None)  # Java takes seconds to start
    if importlib.util.find_spec("pycocoevalcap") is None:
        with pytest.raises(OmnimixError, match=r"pip install 'omnimix\[evaluate\]'"):
            CocoCaptions().score(answers, references)
        return
    found = CocoCaptions().score(answers, references)
    assert found.value == pytest.approx(own.value)
    assert dict(found.numbers) == pytest.approx(
        {
            "bleu-1": 0.5654934465219893,
            "bleu-2": 0.4994302891100137,
            "bleu-3": 0.4714412124762614,
            "bleu-4": 0.4636616789587839,
            "rouge-l": 0.6356877323420074,
            "ptb tokens": 0,
        }
    )


def test_region_captions_as_the_published_run() -> None:
    """The golden metrics of SPHINX-V: METEOR 1.5 by its authors' program, where Java and the package are."""
    case = json.loads((GOLDEN / "sphinx_v/metrics/metrics.json").read_text())["region_caption"]
    answers = [
        said(f"<Region 1>: {one[0]}\n<Region 2>: a car") for one in case["predictions"].values()
    ]
    references = [true(f"Region 1: {one[0]}\n") for one in case["references"].values()]
    found = MEASURES.load("region_captions")().score(answers, references)
    assert found.value == pytest.approx(case["expected"]["CIDEr"], abs=1e-6)
    numbers = dict(found.numbers)
    if importlib.util.find_spec("pycocoevalcap") is None:
        assert not numbers
    elif shutil.which("java") is None:
        assert "meteor" not in numbers and found.notes == ("no METEOR and SPICE: there is no Java",)
    else:
        assert numbers["meteor"] == pytest.approx(case["expected"]["METEOR"], abs=1e-6)
        assert numbers["ptb tokens"] == 1
        assert ("spice" in numbers) != any(one.startswith("no SPICE: ") for one in found.notes)


def test_spice_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package does not bring Stanford's parser; one sentence says which files go where."""
    program = SimpleNamespace(compute_score=lambda truths, given: (0.25, []))
    for name in ("pycocoevalcap", "pycocoevalcap.spice", "pycocoevalcap.spice.spice"):
        module = ModuleType(name)
        vars(module).update(__file__=str(tmp_path / "spice.py"), Spice=lambda: program)
        monkeypatch.setitem(sys.modules, name, module)
    texts = {0: ["a cat"]}
    found, why = spice(texts, texts)
    assert found is None and why == (
        "stanford-corenlp-3.6.0.jar and stanford-corenlp-3.6.0-models.jar of Stanford CoreNLP 3.6.0 are not in "
        f"{tmp_path / 'lib'}"
    )
    (tmp_path / "lib").mkdir()
    for name in PARSER:
        (tmp_path / "lib" / name).touch()
    assert spice(texts, texts) == (0.25, "")
    program.compute_score = lambda truths, given: subprocess.run(["false"], check=True)
    found, why = spice(texts, texts)
    assert found is None and "false" in why


def test_sentences_as_a_local_encoder_sees_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    measure = MEASURES.load("sentence_similarity")()
    monkeypatch.delenv(similar.FOLDER, raising=False)
    with pytest.raises(OmnimixError, match="all-MiniLM-L6-v2"):
        measure.score([said("a")], [true("a")])
    vocabulary = {word: i for i, word in enumerate(("[PAD]", "[UNK]", "red", "cat", "blue", "dog"))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(tmp_path)
    config = BertConfig(
        vocab_size=6,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    BertModel(config).save_pretrained(tmp_path)
    monkeypatch.setenv(similar.FOLDER, str(tmp_path))
    found = measure.score(
        [said("red cat"), said("red cat")], [true("red cat"), true("dog", "blue")]
    )
    # Padding changes nothing, so that the same words are the same vector.
    assert found.each[0] == pytest.approx(1, abs=1e-5) and -1 <= found.each[1] < found.each[0]
