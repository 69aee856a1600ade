"""SPHINX's face: the reference's arguments, what is refused, and answers that the golden cases state."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
import torch
from omnimix_golden.sphinx.answers import shown

from omnimix.errors import CheckpointError, ContextError, OmnimixError, SampleError
from omnimix.families.sphinx import SPHINX_V_Model, SPHINXModel
from omnimix.families.sphinx.conversation import asked, picture
from omnimix.generate.assistant import Assistant
from omnimix.types import Sample, Turn
from tests.cases import case_path, golden

ONE = "sphinx/ens_1shard"
CAT = str(case_path(ONE) / "inputs/cat.png")
ASK = [["Detect all people shown in the image.", None]]


@pytest.fixture(scope="module")
def model() -> SPHINXModel:
    return SPHINXModel.from_pretrained(
        case_path(ONE) / "checkpoint", max_seq_len=1024, dtype=torch.float32
    )


def test_the_face_holds_an_assistant_in_the_type_of_the_release() -> None:
    released = SPHINXModel.from_pretrained(str(case_path(ONE) / "checkpoint"), with_visual=True)
    assert isinstance(released.assistant, Assistant) and not isinstance(released, Assistant)
    assert {p.dtype for p in released.assistant.model.parameters()} == {torch.bfloat16}
    assert released.generate_response(ASK, CAT, max_gen_len=32, temperature=0.0) == "no people"


def test_both_spellings_answer(model: SPHINXModel) -> None:
    for ask in (model.generate_response, model.generate_reponse):
        assert ask(ASK, CAT, max_gen_len=32, temperature=0.0) == "no people"
    again = [[*ASK[0][:1], "no people"], ["What's in the image?", None]]
    assert model.generate_response(again, CAT, max_gen_len=32, temperature=0.0) == "A ginger cat."


def test_the_same_seed_gives_the_same_answer(model: SPHINXModel) -> None:
    qas = [["Tell me a story.", None]]
    words: dict[str, Any] = {"max_gen_len": 12, "temperature": 3.0, "top_p": 1.0}
    once, twice, other = (model.generate_response(qas, **words, seed=seed) for seed in (1, 1, 2))
    assert once == twice != other


def test_prompts_that_are_written_out(model: SPHINXModel) -> None:
    """`generate` on several prompts, with the end signal of conversations and without."""
    _, facts, _ = golden(ONE)
    facts = facts["results"]["batch_generate"]
    images = [str(case_path(ONE) / "inputs" / item["image"]) for item in facts["items"]]
    prompts = [model.prompt(item["qas"]) for item in facts["items"]]
    assert prompts == facts["prompts"]
    stop = {"additional_stop_symbols": ["\n###"], "max_gen_len": facts["max_gen_len"]}
    assert model.generate(prompts, images, **stop) == facts["texts"]
    (whole,) = model.generate(prompts[1:], images[1:], max_gen_len=12)
    assert whole.startswith("no people\n###")
    with pytest.raises(SampleError, match="a list of prompts is wanted"):
        model.generate(prompts[0], images)
    with pytest.raises(SampleError, match="2 pictures for 1 prompts"):
        model.generate(prompts[:1], images)


def test_a_stream_grows_until_its_signal(model: SPHINXModel) -> None:
    pieces = list(model.stream_generate(model.prompt(ASK), CAT, 24, 0.0, 1.0, ["\n###"]))
    assert pieces[-1] == {"text": "no people", "end_of_content": True}
    texts = [piece["text"] for piece in pieces[:-1]]
    assert all(later.startswith(text) for text, later in pairwise(texts))
    assert not any(piece["end_of_content"] for piece in pieces[:-1])


def test_scores_of_texts(model: SPHINXModel) -> None:
    prompt = model.prompt(ASK)
    examples = [f"{prompt} no people", f"{prompt} A ginger cat."]
    found = model.evaluate_examples(examples, [prompt, prompt], [CAT, CAT])
    assert found["max_equal"] == [True, False]
    assert found["log_likelihood"][0] > found["log_likelihood"][1]
    rows = found["non_context_logits"][0]
    assert found["ppl"][0] == pytest.approx(-found["log_likelihood"][0] / len(rows), rel=1e-4)
    # Without a context everything behind the begin token counts; tokens do as well as text.
    ids = model._ids(examples[0])
    whole, same = (model.evaluate_examples([one], None, [CAT]) for one in (examples[0], ids))
    assert len(whole["non_context_logits"][0]) == len(ids) - 1
    assert whole["log_likelihood"] == same["log_likelihood"]
    (logits,) = model.compute_logits([examples[0]], [CAT])
    assert torch.equal(logits[-len(rows) - 1 : -1], rows)
    with pytest.raises(SampleError, match="example 1 does not begin with its context"):
        model.evaluate_examples(["a cat"], ["a dog"])


def test_a_long_prompt_loses_its_beginning(model: SPHINXModel) -> None:
    prompt = model.prompt([["cat " * 1200, None]])
    woven = model._lay(model._ids(prompt), picture(CAT), 100)
    whole = model.tokenizer.encode(prompt)[0]
    text = woven.ids[woven.owner == 0].tolist()
    assert len(woven) == 1024 - 100 and len(text) == 1024 - 100 - 291
    assert text == whole[-len(text) :]  # the begin token is gone too
    assert woven.owner[0] == 0 and set(woven.owner[1:292].tolist()) == {1}
    assert model.generate_response([["cat " * 1200, None]], CAT, 3, 0.0)


def test_no_room_for_the_question_is_refused(model: SPHINXModel) -> None:
    with pytest.raises(
        ContextError, match="291 places of the picture and 1000 of the answer leave"
    ):
        model.generate_response([["What?", None]], CAT, max_gen_len=1000)
    kept = model._lay(range(3, 103), (), 1000)  # without a picture there is room
    assert len(kept) == 24


@pytest.mark.parametrize(
    ("qas", "message"),
    [
        ([], "there is no question"),
        ([["What?", "That."]], "pair 1 of 1 has an answer"),
        ([["What?", None], ["And?", None]], "pair 1 of 2 has no answer"),
    ],
)
def test_questions_without_sense_are_refused(qas: list[list[str]], message: str) -> None:
    with pytest.raises(SampleError, match=message):
        asked(qas)


def test_a_prepared_tensor_is_refused(model: SPHINXModel) -> None:
    with pytest.raises(SampleError, match=r"the picture is a tensor of the shape \[3, 224, 224\]"):
        model.generate_response(ASK, torch.zeros(3, 224, 224))


def test_what_cannot_be_opened_is_refused() -> None:
    folder = case_path(ONE) / "checkpoint"
    with pytest.raises(OmnimixError, match=r"torch\.distributed is not initialised"):
        SPHINXModel.from_pretrained(folder, mp_group=object())
    with pytest.raises(OmnimixError, match="the language model alone"):
        SPHINXModel.from_pretrained(folder, with_visual=False)
    with pytest.raises(OmnimixError, match="llama_config names 2 files"):
        SPHINXModel.from_pretrained(folder, llama_config=["a.json", "b.json"])
    with pytest.raises(OmnimixError, match="pretrained_path names no folder"):
        SPHINXModel.from_pretrained([])


def test_four_bits() -> None:
    model = SPHINXModel.from_pretrained(case_path(ONE) / "checkpoint", quant=True, device="cpu")
    # The tiny widths are none that the CPU's kernels take, so nothing is asked.
    held = {
        name for name, one in model.assistant.model.named_modules() if "4bit" in type(one).__name__
    }
    assert held and all(name.startswith("language.") for name in held)


def test_a_page_never_shows_the_end_signal() -> None:
    texts = ["no", "no pe", "no people", "no people\n", "no people\n##", "no people\n###", "never"]
    raw = ({"text": text, "end_of_content": False} for text in texts)
    assert [piece["text"] for piece in shown(raw)] == [
        "n",
        "no pe",
        "no peo",
        "no peopl",
        "no people\n",
    ]


def test_the_unknown_token_is_never_learned(model: SPHINXModel) -> None:
    processor = model.assistant.processor
    style = processor.recipe.template
    assert style.unlearned == (0,)
    sample = asked([["What?", None]])
    sample = Sample((*sample.turns, Turn("assistant", ("a cat",))), "record")
    plain = processor.weave(sample)
    cat = processor.weave.tokenizer.encode("a cat")[0][-1]
    assert cat in plain.labels.tolist()
    # The tokenizer spells letters it does not know in bytes, so another id stands in for the unknown token.
    other = processor.with_template(style.model_copy(update={"unlearned": (0, cat)}))
    woven = other.weave(sample)
    assert woven.ids.tolist() == plain.ids.tolist()
    assert cat not in woven.labels.tolist() and woven.targets == plain.targets - 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"qas": None}, "generate_response: qas: NoneType was given"),
        ({"qas": "What?"}, "a list of qas is wanted, not one text"),
        ({"qas": ["What?"]}, "generate_response: qas.0: "),
        ({"qas": ASK, "max_gen_len": None}, "max_gen_len: NoneType was given"),
        ({"qas": ASK, "max_gen_len": 0}, "max_new_tokens is 0"),
        ({"qas": ASK, "top_p": "half"}, "top_p: str was given"),
        ({"qas": ASK, "tempertaure": 0.1}, "did you mean 'temperature'?"),
    ],
)
def test_arguments_of_another_form_are_refused(
    model: SPHINXModel, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(OmnimixError, match=re.escape(said)):
        model.generate_response(**given)


def test_the_class_of_the_other_model_is_named() -> None:
    with pytest.raises(
        CheckpointError, match=r"a SPHINX-V, .* with SPHINX_V_Model\.from_pretrained"
    ):
        SPHINXModel.from_pretrained(case_path("sphinx_v/ens5_vp/checkpoint"))
    with pytest.raises(
        CheckpointError, match=r"takes no marks .* with SPHINXModel\.from_pretrained"
    ):
        SPHINX_V_Model.from_pretrained(case_path(ONE) / "checkpoint")
    opened = SPHINX_V_Model.from_pretrained(case_path("sphinx_v/ens5_vp/checkpoint"))
    with pytest.raises(CheckpointError, match="a SPHINX-V"):
        SPHINXModel(opened.assistant)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"max_seq_len": 0}, "max_seq_len is 0. Give a whole number above 0"),
        ({"max_seq_len": None}, "max_seq_len: NoneType was given"),
        ({"pretrained_path": None}, "pretrained_path"),
        (
            {"llama_type": "llama_ens10"},
            "'llama_ens10' is asked for, and the folder says 'llama_ens'",
        ),
        ({"dtype": "bf16"}, "dtype: str was given"),
    ],
)
def test_words_that_do_not_fit_are_refused(words: dict[str, Any], said: str) -> None:
    with pytest.raises(OmnimixError, match=re.escape(said)):
        SPHINXModel.from_pretrained(**{"pretrained_path": case_path(ONE) / "checkpoint", **words})
