"""The processor as transformers' users know it: messages, texts with items, auto classes, pipelines."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    pipeline,
)

from omnimix.compose import fingerprint, messages, pixels
from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.errors import OmnimixError
from omnimix.generate import folder
from omnimix.prompts import chat_template, template as templates
from omnimix.prompts.questions import question
from omnimix.types import Box, Media, Sample, Turn

ROOT = Path(__file__).parents[2]
SCENE = ROOT / "examples" / "scene.png"
QUESTION = "How many things are there?"
MESSAGES = [
    {
        "role": "user",
        "content": [{"type": "image", "path": str(SCENE)}, {"type": "text", "text": QUESTION}],
    }
]
PICTURE = Image.new("RGB", (40, 30), (200, 30, 30))
BOX = Box(2, 3, 20, 25)


def same_batches(one: Batch, other: Batch, processor: Processor) -> None:
    """Two batches hold the same rows and pictures, whatever names these have."""
    for batch in (one, other):
        batch.pop("labels", None)
        if "item_places" in batch:
            pixels.rename(batch, processor.recipe)
    assert one.keys() == other.keys()
    for name, value in one.items():
        if name == "items":
            assert list(value) == list(other[name])
            pairs = zip(value.values(), other[name].values(), strict=True)
            tensors = [zip(a.tensors(), b.tensors(), strict=True) for a, b in pairs]
            assert all(torch.equal(a, b) for two in tensors for a, b in two)
        else:
            assert torch.equal(value, other[name]), name


def asked(*parts: Any) -> Sample:
    return Sample((Turn("user", parts),), "question")


def one_image(form: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{**form}, {"type": "text", "text": "What is it?"}]}]


def data_url(picture: Image.Image, path: Path) -> str:
    picture.save(path)
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def test_messages_are_woven_as_samples(tiny_processor: Processor, tmp_path: Path) -> None:
    wanted = tiny_processor([asked(Media.image(PICTURE), "What is it?")], open_answer=True)
    url = data_url(PICTURE, tmp_path / "red.png")
    for form in (
        {"type": "image", "image": PICTURE},
        {"type": "image", "image": np.asarray(PICTURE)},
        {"type": "image", "path": str(tmp_path / "red.png")},
        {"type": "image", "url": (tmp_path / "red.png").as_uri()},
        {"type": "image", "url": url},
        {"type": "image", "base64": url.partition(",")[2]},
        {"type": "image_url", "image_url": {"url": url}},
    ):
        got = tiny_processor.apply_chat_template(
            one_image(form),
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        same_batches(got, wanted, tiny_processor)


@pytest.mark.parametrize("style", templates.names())
def test_a_prompt_as_text_is_woven_as_its_messages(style: str, tiny_processor: Processor) -> None:
    processor = tiny_processor.with_template(templates.named(style))
    talk = [
        *one_image({"type": "image", "image": PICTURE}),
        {"role": "assistant", "content": "A box."},
        {"role": "user", "content": "And what colour?"},
    ]
    if chat_template.typed(processor.recipe.template) is None:
        with pytest.raises(OmnimixError, match="has no form as a chat template"):
            processor.apply_chat_template(talk)
        return
    woven = processor.apply_chat_template(
        [talk], tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    (text,) = processor.apply_chat_template([talk], add_generation_prompt=True)
    assert text.count("<image>") == 1
    same_batches(processor(text=text, images=PICTURE, return_tensors="pt"), woven, processor)
    closed = processor.apply_chat_template(talk[:2])
    batch = processor(text=closed, images=[PICTURE], return_tensors="pt")
    woven = processor.apply_chat_template(
        talk[:2], tokenize=True, return_dict=True, return_tensors="pt"
    )
    same_batches(batch, woven, processor)


def test_a_text_beside_items_is_a_question(tiny_processor: Processor) -> None:
    turn = question("What is in the box?", [PICTURE], [BOX])
    wanted = tiny_processor([Sample((turn,), "question")], open_answer=True)
    pt = {"return_tensors": "pt"}
    got = tiny_processor(text="What is in the box?", images=PICTURE, regions=BOX, **pt)
    same_batches(got, wanted, tiny_processor)
    two = tiny_processor(text=["What?", "How many?"], images=[[PICTURE], [PICTURE, PICTURE]], **pt)
    alike = [
        asked(Media.image(PICTURE), "What?"),
        asked(Media.image(PICTURE), Media.image(PICTURE), "How many?"),
    ]
    same_batches(two, tiny_processor(alike, open_answer=True), tiny_processor)
    flat = tiny_processor(text=["<image>What?", "<image><image>How?"], images=[PICTURE] * 3, **pt)
    assert [int(row.sum()) for row in flat[pixels.PLACES] > 0] == [49, 98]
    assert flat[pixels.PIXELS].shape[:3] == (3, 1, 3)


def test_rows_are_lists_where_no_tensors_are_asked(tiny_processor: Processor) -> None:
    words: dict[str, Any] = {"text": ["What?", "How many are there?"], "images": [[PICTURE]] * 2}
    whole, lists = tiny_processor(**words, return_tensors="pt"), tiny_processor(**words)
    short, long = (len(row) for row in lists["input_ids"])
    assert short < long == whole["input_ids"].shape[1]
    for name in ("input_ids", "attention_mask", pixels.PLACES):
        assert lists[name] == [whole[name][0, long - short :].tolist(), whole[name][1].tolist()]
        assert tiny_processor(**words, padding=True)[name] == whole[name].tolist()
    assert torch.equal(lists[pixels.PIXELS], whole[pixels.PIXELS])
    assert set(tiny_processor(text="What?")) == {"input_ids", "attention_mask"}


def test_a_text_without_items_is_the_prompt_as_it_is(tiny_processor: Processor) -> None:
    tokenizer = tiny_processor.weave.tokenizer
    ids, _ = tokenizer.encode("two red boxes")
    assert tiny_processor(text="two red boxes")["input_ids"] == [[tokenizer.bos, *ids]]
    bare = tiny_processor(text="two red boxes", add_special_tokens=False, padding_side="right")
    assert bare["input_ids"] == [ids]
    assert "labels" not in bare


def test_learned_tokens_are_told_where_asked(tiny_processor: Processor) -> None:
    talk = [
        *one_image({"type": "image", "image": PICTURE}),
        {"role": "assistant", "content": "A box."},
    ]
    batch = tiny_processor.apply_chat_template(
        talk,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        return_tensors="pt",
    )
    learned = batch.input_ids[batch["assistant_masks"].bool()]
    assert tiny_processor.decode(learned).strip() == "A box."


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"text": "What?", "images": "http://a.org/b.png"}, "is not fetched"),
        ({"text": "<image>?", "images": [PICTURE, PICTURE]}, "2 items of image for 1 places"),
        ({"text": "<image><image>?", "images": [[PICTURE]]}, "more marks <image> than items"),
        ({"text": ["a", "b"], "images": [[PICTURE]]}, "1 lists of image for 2 texts"),
        ({"text": "What?", "audio": (np.zeros(9), 16000)}, "audio"),
        ({"text": "What?", "frames": 3}, "knows no word 'frames'"),
        ({"text": "What?", "return_tensors": "np"}, "return_tensors='np'"),
        ({"text": "What?", "padding": "max_length"}, "padding='max_length'"),
        ({"text": "What is it?", "truncation": True, "max_length": 2}, "more than max_length 2"),
        ({}, "neither text nor samples"),
    ],
)
def test_what_cannot_be_right_is_refused(
    words: dict[str, Any], said: str, tiny_processor: Processor
) -> None:
    with pytest.raises(OmnimixError, match=said):
        tiny_processor(**words)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"content": "What?"}, "no message"),
        ({"role": "user", "content": [{"text": "What?"}]}, "without a type"),
        ({"role": "user", "content": [{"type": "image"}]}, "no items in a part"),
        ({"role": "tool", "content": "What?"}, "unknown role"),
    ],
)
def test_messages_that_cannot_be_read_are_refused(
    message: dict[str, Any], said: str, tiny_processor: Processor
) -> None:
    with pytest.raises(OmnimixError, match=said):
        tiny_processor.apply_chat_template([message], tokenize=True)


def test_regions_of_answers_lie_on_the_pictures(tiny_processor: Processor) -> None:
    text = "[0.25, 0.50, 0.50, 0.75]"
    ids = tiny_processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    for answers in ([text, "no"], [ids, []]):
        one, none = tiny_processor.post_process_regions(answers, [(200, 400), (1, 1)])
        (box,) = one.regions
        # The picture is padded to a square of 400, so it lies 100 below the upper border.
        assert box.bounds() == pytest.approx((100, 100, 200, 200), abs=1e-6)
        assert none.regions == ()


def test_what_serving_engines_count(tiny_processor: Processor) -> None:
    counts = tiny_processor._get_num_multimodal_tokens(image_sizes=[(30, 40), (500, 20)])
    assert counts["num_image_tokens"] == [49, 49]
    assert counts["num_image_patches"] == [1, 1]


def test_a_folder_is_whole_for_transformers(tiny_folder: Path, tiny_processor: Processor) -> None:
    processor = AutoProcessor.from_pretrained(tiny_folder)
    assert isinstance(processor, Processor)
    assert isinstance(processor, ProcessorMixin)
    assert isinstance(processor.tokenizer, PreTrainedTokenizerFast)
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    for found in (processor, tokenizer):
        assert found.chat_template == tiny_processor.chat_template
    ids = tiny_processor.weave.tokenizer.encode("a red box")[0]
    assert tokenizer("a red box", add_special_tokens=False)["input_ids"] == ids
    assert processor.batch_decode([ids, ids]) == ["a red box"] * 2
    for auto in (AutoModelForImageTextToText, AutoModelForMultimodalLM):
        assert isinstance(auto.from_pretrained(tiny_folder), MultimodalLM)
    words = json.loads((tiny_folder / "generation_config.json").read_text())
    end = tiny_processor.weave.tokenizer.encode("\n", follows=True)[0]
    assert words["eos_token_id"] == sorted([tokenizer.eos_token_id, *end])
    batch = processor(text=QUESTION, images=PICTURE)
    regions = processor(text=QUESTION, images=PICTURE, regions=BOX)
    assert set(batch) | set(regions) == set(processor.model_input_names)


def test_pipelines_answer() -> None:
    pipe = pipeline("image-text-to-text", str(folder.find("nano")), device="cpu")
    (said,) = pipe(text=MESSAGES, max_new_tokens=8)
    assert said["generated_text"][-1] == {"role": "assistant", "content": "4\n"}
    picture = Image.open(SCENE)
    told = pipe(images=[picture] * 2, text=[QUESTION] * 2, max_new_tokens=8, return_full_text=False)
    assert [one["generated_text"] for one in told] == ["4\n"] * 2
    assert (
        pipe(text=MESSAGES, stop_sequence="4", return_full_text=False)[0]["generated_text"] == "4"
    )


CURE = f"""
import importlib.util as util
spec = util.spec_from_file_location("cure", {str(ROOT / "src/omnimix/_torchvision.py")!r})
cure = util.module_from_spec(spec)
spec.loader.exec_module(cure)
cure.install()
"""
"""A CUDA build of torchvision beside a CPU torch breaks transformers where omnimix is not imported."""

ALONE = """
import sys
import omnimix
assert not {"torch", "transformers", "pydantic", "numpy.random"} & set(sys.modules)
from transformers import AutoConfig, AutoProcessor, AutoTokenizer
assert "omnimix.compose.model" not in sys.modules
print(type(AutoConfig.from_pretrained(sys.argv[1])).__module__)
print(type(AutoProcessor.from_pretrained(sys.argv[1])).__module__)
"""

REMOTE = """
import sys
from transformers import AutoModelForImageTextToText, AutoProcessor
place, words = sys.argv[1], {"trust_remote_code": True}
model = AutoModelForImageTextToText.from_pretrained(place, **words)
print(type(model).__module__)
processor = AutoProcessor.from_pretrained(place, **words)
print(type(processor).__module__)
model.save_pretrained(sys.argv[2])
"""


def fresh(script: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("script", [ALONE, CURE + REMOTE])
def test_a_fresh_process_opens_it(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `import omnimix` alone, which is light; or without it, by the file in the folder, as nano ships."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    out = tmp_path / "again"
    done = fresh(script, folder.find("nano"), out)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {line.rpartition(".")[0] for line in done.stdout.split()} == {"omnimix.compose"}
    if out.is_dir():
        ours = (folder.find("nano") / "modeling_omnimix.py").read_text()
        assert (out / "modeling_omnimix.py").read_text() == ours


def test_where_omnimix_is_not_installed_the_folder_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    gone = "import sys; sys.modules['omnimix'] = None\n"
    done = fresh(CURE + gone + REMOTE, folder.find("nano"), tmp_path / "again")
    assert done.returncode != 0 and "pip install omnimix" in done.stderr


def test_the_shipped_model_is_written_as_today(tmp_path: Path) -> None:
    """A change of what is saved: copy the files that differ to `models/nano`."""
    shipped = folder.find("nano")
    MultimodalLM.from_pretrained(shipped, dtype="auto").save_pretrained(tmp_path)
    Processor.from_pretrained(shipped).save_pretrained(tmp_path)
    for file in tmp_path.iterdir():
        if file.name in ("config.json", "generation_config.json"):
            versions = [
                json.loads((place / file.name).read_text()) for place in (tmp_path, shipped)
            ]
            for words in versions:
                del words["transformers_version"]
            assert versions[0] == versions[1]
        elif file.name == fingerprint.FILE:  # its last bits are those of a machine's libraries
            taken = [json.loads((place / file.name).read_text()) for place in (shipped, tmp_path)]
            assert taken[0]["recipe"] == taken[1]["recipe"]
            assert not fingerprint.moved(*(one["stages"] for one in taken))
            assert [one["step"] for one in taken[0]["stages"]] == [
                one["step"] for one in taken[1]["stages"]
            ]
        else:
            assert file.read_bytes() == (shipped / file.name).read_bytes(), file.name


def test_batches_that_a_pipeline_put_together_are_refused(
    tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    batch = tiny_processor(text=QUESTION, images=PICTURE, regions=BOX, return_tensors="pt")
    words = {**batch, "items": [batch["items"]]}
    with pytest.raises(OmnimixError, match="items are a list"):
        tiny_model.generate(**words, max_new_tokens=1)


def test_a_document_is_called_by_its_place_and_a_file_by_its_name() -> None:
    """The text of a document is no name of it."""
    assert messages.media("document", "Once upon a time.", "message 1").label == "message 1"
    assert messages.media("image", "a.png", "message 1").label == "a.png"
    assert messages.media("image", b"x", "message 1").label == "message 1"
