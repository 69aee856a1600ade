"""Answers: alone, in batches, streamed; and model folders."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import omnimix
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.errors import CheckpointError, ContextError, OmnimixError, RegistryError
from omnimix.generate.assistant import Assistant
from omnimix.generate.engine.runners import OneByOne
from omnimix.types import Box, Point, Sample, Turn
from omnimix_scenes import Scenes

TASKS = ("describe", "attribute", "compare", "find")


@pytest.fixture(scope="module")
def assistant(tiny_model: MultimodalLM, tiny_processor: Processor) -> Assistant:
    return Assistant(tiny_model, tiny_processor)


@pytest.fixture(scope="module")
def questions() -> list[Sample]:
    scenes = Scenes(1000, "heldout")
    made = [scenes.question(task, i) for i in range(3) for task in TASKS]
    return [Sample(sample.turns[:1], sample.id) for sample in made]


def test_batches_answer_as_single_questions_do(
    assistant: Assistant, questions: list[Sample]
) -> None:
    together = assistant.reply_many(questions, max_new_tokens=12, batch_size=5)
    alone = [assistant.reply(question, max_new_tokens=12) for question in questions]
    assert together == alone
    assert len({answer.text for answer in alone}) > 1, "the answers should tell pictures apart"


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_streams_give_the_same_text(
    assistant: Assistant, questions: list[Sample], temperature: float
) -> None:
    words = {"max_new_tokens": 24, "temperature": temperature, "seed": 3}
    for question in questions[:4]:
        pieces = list(assistant.stream(question, **words))
        assert "".join(pieces) == assistant.reply(question, **words).text
        assert all(pieces)


def test_a_seed_repeats_and_leaves_other_chance_alone(
    assistant: Assistant, questions: list[Sample]
) -> None:
    words = {"max_new_tokens": 16, "temperature": 2.0}
    before = torch.get_rng_state()
    first = assistant.reply(questions[0], seed=1, **words)
    assert torch.equal(torch.get_rng_state(), before)
    assert assistant.reply(questions[0], seed=1, **words) == first
    assert assistant.reply(questions[0], seed=2, **words) != first


def test_stop_strings_end_and_are_cut(assistant: Assistant, questions: list[Sample]) -> None:
    words = {"max_new_tokens": 24, "temperature": 1.5, "seed": 5}
    whole = assistant.reply(questions[0], stop_strings=(), **words)
    assert len(whole.text) > 6
    stop = whole.text[3:5]
    stopped = assistant.reply(questions[0], stop_strings=(stop,), **words)
    assert stopped.text == whole.text[: whole.text.index(stop)].strip()
    assert stopped.finished
    assert stopped.tokens < whole.tokens
    assert "".join(assistant.stream(questions[0], stop_strings=(stop,), **words)) == stopped.text


@pytest.mark.parametrize("given", ["hello", [["What?"]], [None], [Turn("user", ("Hi",))], None])
def test_what_is_no_conversation_is_refused(assistant: Assistant, given: Any) -> None:
    with pytest.raises(OmnimixError, match="conversation"):
        assistant.reply_many(given)
    with pytest.raises(OmnimixError, match="conversation"):
        assistant.stream("hello")  # type: ignore[arg-type]
    with pytest.raises(OmnimixError, match="questions come in a list"):
        assistant.answers("hello")


def test_a_stream_can_be_closed_early(assistant: Assistant, questions: list[Sample]) -> None:
    pieces = assistant.stream(
        questions[0], max_new_tokens=400, temperature=2.0, seed=0, stop_strings=()
    )
    next(pieces)
    pieces.close()
    with pytest.raises(StopIteration):
        next(pieces)


def test_errors_in_a_stream_reach_the_caller(
    assistant: Assistant, questions: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("no power")

    monkeypatch.setattr(assistant.model.language, "forward", broken)
    with pytest.raises(ValueError, match="no power"):
        list(assistant.stream(questions[0]))


def test_answers_about_a_region(assistant: Assistant, questions: list[Sample]) -> None:
    picture = questions[0].media("image")[0].data
    text = assistant.answer("What is in the box?", picture, [Box(4, 6, 60, 70)], max_new_tokens=4)
    assert isinstance(text, str)


def saying(assistant: Assistant, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Make the model write a text, whatever it is asked."""
    ids = assistant.processor.weave.tokenizer.encode(text)[0] + [
        assistant.processor.weave.tokenizer.eos
    ]

    @dataclass
    class Text:
        written: int = 0

    class Saying(OneByOne):
        def __init__(self) -> None:
            self.token_bytes = 1

        def open(self, room: int) -> Text:  # type: ignore[override]
            return Text()

        def run(self, texts: Any, embeddings: Any) -> torch.Tensor:
            said = torch.zeros(len(texts), assistant.model.vocab_size)
            for row, text in zip(said, texts, strict=True):
                row[ids[text.written]] = 1
                text.written += 1
            return said

    monkeypatch.setattr(type(assistant.decoder), "runner", Saying())


def test_answers_carry_regions_streamed_or_not(
    assistant: Assistant, questions: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    saying(assistant, monkeypatch, "[0.25, 0.25, 0.75, 0.50] and [0.50, 0.50] and [0.9, 0.1, 0.2]")
    picture = questions[0].media("image")[0].data
    answer = assistant.reply(questions[0])
    stream = assistant.stream(questions[0])
    assert stream.answer.regions == () and not stream.answer.finished
    assert "".join(stream) == answer.text
    assert stream.answer == answer and answer.finished
    assert [type(region) for region in answer.regions] == [Box, Point] and len(answer.skipped) == 1
    side, low = max(picture.size), (max(picture.size) - picture.height) // 2
    assert answer.boxes[0].bounds() == pytest.approx(
        (side * 0.25, side * 0.25 - low, side * 0.75, side * 0.5 - low)
    )
    assert omnimix.draw(picture, answer.regions).size >= picture.size
    assert assistant.reply([Turn("user", ("no picture",))]).regions == ()


def test_the_way_of_regions_can_be_chosen(assistant: Assistant, questions: list[Sample]) -> None:
    picture = questions[0].media("image")[0].data
    ask = {"question": "What is in the box?", "image": picture, "regions": [Box(4, 6, 60, 70)]}
    for way in ("tokens", "text", "marks"):
        assert isinstance(assistant.answer(**ask, max_new_tokens=4, pointing=way), str)
    with pytest.raises(OmnimixError, match="ways are tokens"):
        assistant.answer(**ask, pointing="lines")


def test_no_room_says_by_how_much(assistant: Assistant) -> None:
    with pytest.raises(ContextError, match="kept for the answer are"):
        assistant.answer("hi " * 1000)


def test_no_questions_no_answers(assistant: Assistant) -> None:
    assert assistant.reply_many([]) == []


def test_a_folder_gives_the_same_model(tiny_folder: Path, questions: list[Sample]) -> None:
    loaded = omnimix.load(tiny_folder, device="cpu")
    assert loaded.model.dtype == torch.float32
    again = omnimix.load(str(tiny_folder), device="cpu")
    first = loaded.reply(questions[0], max_new_tokens=8)
    assert again.reply(questions[0], max_new_tokens=8) == first


def test_half_weights_load_as_float32(
    tmp_path: Path, tiny_recipe: omnimix.Recipe, tiny_processor: Processor
) -> None:
    MultimodalLM.from_recipe(tiny_recipe).half().save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    assert omnimix.load(tmp_path, device="cpu").model.dtype == torch.float32


def test_unknown_models_are_refused() -> None:
    with pytest.raises(RegistryError, match="unknown model 'nanoo'"):
        omnimix.load("nanoo")
    with pytest.raises(RegistryError, match="`omnimix models` lists them") as caught:
        omnimix.load("zzz")
    assert "Nearest are " in str(caught.value) and str(caught.value).count(",") < 5


def test_folders_without_a_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"recipe\.yaml.*missing \(the folder holds notes"):
        omnimix.load(tmp_path)
    with pytest.raises(CheckpointError, match="a file, not a folder"):
        omnimix.load(tmp_path / "notes.txt")


@pytest.mark.parametrize("harm", ["missing", "left over", "misshapen", "damaged"])
def test_weights_that_do_not_fit_are_refused(tiny_folder: Path, tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = "image.branches.0.connector.layers.0.weight"
    name = name if name in weights else next(n for n in weights if "connector" in n)
    if harm == "missing":
        del weights[name]
    elif harm == "left over":
        weights["image.stranger"] = torch.zeros(2)
    elif harm == "misshapen":
        weights[name] = torch.zeros(3)
    save_file(weights, file, metadata={"format": "pt"})
    if harm == "damaged":
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError) as found:
        omnimix.load(folder, device="cpu")
    assert "\n" not in str(found.value)


def test_loading_is_silent(tiny_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    omnimix.load(tiny_folder, device="cpu")
    assert capfd.readouterr() == ("", "")


def test_errors_are_omnimix_errors() -> None:
    assert issubclass(CheckpointError, OmnimixError)


def test_an_assistant_moves_as_if_it_had_been_loaded_so() -> None:
    moved = omnimix.load("nano", device="cpu").to(dtype=torch.bfloat16)
    loaded = omnimix.load("nano", device="cpu", dtype=torch.bfloat16)
    wanted = dict(loaded.model.named_buffers())
    for name, buffer in moved.model.named_buffers():
        assert buffer.dtype == wanted[name].dtype and torch.equal(buffer, wanted[name]), name
    for name, weight in moved.model.named_parameters():
        assert weight.dtype == torch.bfloat16, name
    moved.model.is_quantized = True
    with pytest.raises(omnimix.OmnimixError, match="quantized cannot be moved"):
        moved.to("cpu")


def test_a_word_that_no_answer_is_written_with_is_refused_with_the_nearest(
    tiny_folder: Path,
) -> None:
    assistant = omnimix.load(tiny_folder, "cpu")
    with pytest.raises(OmnimixError, match=r"'max_new_tokns'.*Did you mean 'max_new_tokens'"):
        assistant.answer("What is there?", max_new_tokns=4)
    with pytest.raises(OmnimixError, match="'num_beams'"):
        assistant.stream("What is there?", num_beams=2)


@pytest.mark.parametrize("word", ["banana", "hf_token", "devise"])
@pytest.mark.parametrize("name", ["nano", "prism-dinosiglip+7b", "folder"])
def test_a_word_that_load_has_no_use_for_is_refused(
    name: str, word: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched(*_: Any, **__: Any) -> None:
        raise AssertionError("files were fetched first")

    monkeypatch.setattr("omnimix.checkpoints.releases.fetch", fetched)
    with pytest.raises(CheckpointError, match=f"knows no word.* '{word}'"):
        omnimix.load(tiny_folder if name == "folder" else name, **{word: 1})


def test_a_model_without_a_name_is_refused() -> None:
    with pytest.raises(RegistryError, match="the model has no name"):
        omnimix.load("")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named_in_place_of_an_answer(
    value: float, assistant: Assistant, questions: list[Sample]
) -> None:
    name = "language.model.layers.0.mlp.down_proj.weight"
    weight = dict(assistant.model.named_parameters())[name]
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight[0, 0] = value
        for ask in (assistant.reply, lambda one: list(assistant.stream(one))):
            with pytest.raises(OmnimixError, match=rf"weights of {name} hold values"):
                ask(questions[0])
    finally:
        with torch.no_grad():
            weight.copy_(before)


@pytest.fixture
def copied(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def test_a_configuration_with_a_byte_order_mark_is_read(copied: Path) -> None:
    before = omnimix.load(copied).model.state_dict()
    file = copied / "config.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    after = omnimix.load(copied).model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("said", ['"llama"', "NaN", "null", "[]", "7"])
def test_a_configuration_of_something_else_is_named(said: str, copied: Path) -> None:
    (copied / "config.json").write_text(f'{{"model_type": {said}}}')
    with pytest.raises(CheckpointError, match=r"config\.json: model_type is .* where 'omnimix'"):
        omnimix.load(copied)


def test_weights_of_another_shape_are_named(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    name = next(name for name in weights if weights[name].dim() == 2)
    shape = list(weights[name].shape)
    weights[name] = weights[name][:, :1].contiguous()
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError) as caught:
        omnimix.load(copied)
    assert f"{name} (is [{shape[0]}, 1], wanted is {shape})" in caught.value.sentence()
    assert "recipe.yaml and config.json must" in caught.value.sentence()
