"""Styles out of chat templates, and back."""

from __future__ import annotations

import json

import pytest

from omnimix.errors import RecipeError
from omnimix.prompts import chat_template, template as templates
from omnimix.prompts.template import Form, Template
from omnimix.types import Sample, Turn
from tests.cases import case_path

CHATML = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LATER_MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != "
    "(loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('no such role') }}{% endif %}{% endfor %}"
)
TALK = Sample(tuple(Turn(r, (t,)) for r, t in (("user", " Hi "), ("assistant", "Yes"))), "talk")


def test_the_releases_template_is_the_shipped_style() -> None:
    folder = case_path("multi_token/vision_lora/backbones/mistralai/Mistral-7B-Instruct-v0.1")
    words = json.loads((folder / "tokenizer_config.json").read_text())
    jinja = chat_template.of(words)
    assert jinja is not None
    assert chat_template.read(jinja, "<s>", "</s>") is templates.named("mistral_instruct")


def test_later_mistrals_put_no_space_behind_an_answer() -> None:
    style = chat_template.read(LATER_MISTRAL, "<s>", "</s>")
    assert style.bos
    assert style.system is None
    assert style.text(TALK) == "[INST]  Hi  [/INST]Yes</s>"


def test_chatml_has_a_system_turn_and_no_begin_token() -> None:
    style = chat_template.read(CHATML, "<s>", "<|im_end|>")
    assert not style.bos
    assert style.system == Form(before="<|im_start|>system\n", after="<|im_end|>\n")
    assert style.stop_strings == ("<|im_end|>",)
    asked = Sample(TALK.turns[:1], "talk")
    assert style.text(asked, True) == "<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(("jinja", "eos"), [(CHATML, "<|im_end|>"), (LATER_MISTRAL, "</s>")])
def test_a_style_is_written_back(jinja: str, eos: str) -> None:
    style = chat_template.read(jinja, "<s>", eos)
    assert chat_template.read(chat_template.written(style), "<s>", eos) == style


def test_a_first_question_of_its_own_and_trimmed_texts() -> None:
    style = Template(
        name="chat template",
        first_user=Form(before="A chat.\nQ: ", after="\nA: "),
        user=Form(before="Q: ", after="\nA: "),
        assistant=Form(after="</s>\n"),
        stop_strings=("</s>",),
        tokenize="turns",
        contents="special",
    )
    assert chat_template.read(chat_template.written(style), "<s>", "</s>") == style


@pytest.mark.parametrize(
    ("jinja", "says"),
    [
        ("{% for m in messages %}", "no chat template"),
        ("{{ messages[9]['content'] }}", "cannot be run"),
        ("{{ messages[0]['content'] }}", "in different ways"),
        ("{{ raise_exception('never') }}", "in different ways"),
        (
            "{% for m in messages %}{{ loop.index ~ m['content'] ~ '.' }}{% endfor %}",
            "in different ways",
        ),
    ],
)
def test_what_is_no_style_is_refused(jinja: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        chat_template.read(jinja, "<s>", "</s>")


def test_a_template_cannot_reach_out_of_its_sandbox() -> None:
    with pytest.raises(RecipeError, match="cannot be run"):
        chat_template.read("{{ messages.__class__.__mro__ }}", "<s>", "</s>")


def test_the_template_named_default_is_taken() -> None:
    rows = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    assert chat_template.of({"chat_template": rows}) == "b"
    assert chat_template.of({"chat_template": "c"}) == "c"
    assert chat_template.of({}) is None
