"""Templates: what each house style writes, and the order of turns it insists on."""

from __future__ import annotations

import pytest

from omnimix.errors import RecipeError, SampleError
from omnimix.prompts import template as templates
from omnimix.prompts.template import Form, Hole, Piece, Template, Text, Token
from omnimix.types import Media, Sample, Turn
from tests.shared import golden

PICTURE = Media.image("a.png")


def talk(*texts: str, system: str | None = None) -> Sample:
    turns = [Turn(("user", "assistant")[i % 2], (text,)) for i, text in enumerate(texts)]
    return Sample((*([Turn("system", (system,))] if system is not None else []), *turns), "talk")


def written(pieces: list[Piece], learned: bool | None = None) -> str:
    """The text as a person reads it; tokens and holes as marks."""
    text = ""
    for piece in pieces:
        if learned is not None and (isinstance(piece, Hole) or piece.learned != learned):
            continue
        if isinstance(piece, Text):
            text += piece.text
        else:
            text += f"<{piece.name}>" if isinstance(piece, Token) else "<hole>"
    return text


@pytest.mark.parametrize("name", templates.names())
def test_every_shipped_template_renders(name: str) -> None:
    style = templates.named(name)
    assert style.name == name
    sample = Sample((Turn("user", (PICTURE, "What?")), *talk("", "A cup.").turns[1:]), "talk")
    pieces = style.pieces(sample)
    assert written(pieces).count("<hole>") == 1
    assert written(pieces).startswith("<bos>") == style.bos
    end = style.assistant.after + ("<eos>" if style.eos else "")
    assert written(pieces, learned=True) == style.assistant.lead + "A cup." + end
    assert style.stop, "a style names what ends an answer"
    opened = style.pieces(talk("What?"), open_answer=True)
    assert written(opened).endswith(style.assistant.before)
    assert written(opened, learned=True) == ""
    assert written(style.pieces(talk("What?", "A cup."))).startswith(written(opened))


def test_sphinx_writes_what_was_published() -> None:
    _, facts, _ = golden("sphinx/ens_1shard")
    style = templates.named("sphinx")
    conversation = facts["results"]["conv"]
    texts = [text for pair in conversation["qas"] for text in pair]
    assert written(style.pieces(talk(*texts))) == "<bos>" + conversation["text"]
    for case in facts["results"]["generate"]:
        asked = [text for pair in case["qas"] for text in pair if text is not None]
        opened = written(style.pieces(talk(*asked), open_answer=True))
        assert opened == "<bos>" + case["prompt"]


@pytest.mark.parametrize(
    ("name", "builder"),
    [("vicuna_v15", "vicuna-v15"), ("pure", "pure"), ("mistral_instruct", "mistral-instruct")],
)
def test_prismatic_styles_write_what_was_published(name: str, builder: str) -> None:
    _, facts, _ = golden("prismatic/text_and_data")
    style = templates.named(name)
    cases = [c for c in facts["prompts"] if c["builder"] == builder and c["system_prompt"] is None]
    seen = 0
    for case in cases:
        texts = [turn["message"].replace("<image>", "").strip() for turn in case["turns"]]
        if len(texts) % 2 or not all(texts):
            continue
        seen += 1
        found = written(style.pieces(talk(*texts))).removeprefix("<bos>")
        found = found.replace("<eos>", "</s>")
        wanted = "".join(turn["wrapped"] for turn in case["turns"])
        # multi_token's Mistral has a space after the end token, Prismatic's has none.
        if name == "mistral_instruct":
            found, wanted = (text.replace(" ", "") for text in (found, wanted))
        assert found == wanted
    assert seen


def test_vicuna_in_full() -> None:
    found = written(templates.named("vicuna_v15").pieces(talk("Hi", "Hello", "Bye", "So long")))
    system = templates.named("vicuna_v15").default_system
    assert found == (
        f"<bos>{system} USER: Hi ASSISTANT: Hello<eos>USER: Bye ASSISTANT: So long<eos>"
    )


def test_a_system_text_replaces_the_default() -> None:
    found = written(templates.named("phi3").pieces(talk("Hi", system="Be brief."), True))
    assert found == ("<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n")


@pytest.mark.parametrize("name", ["plain", "pure", "mistral_instruct"])
def test_styles_without_a_system_turn_refuse_one(name: str) -> None:
    with pytest.raises(SampleError, match=f"talk: the template '{name}' has no system turn"):
        templates.named(name).pieces(talk("Hi", "Hello", system="Be brief."))


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        ("", "the conversation is empty"),
        ("a", "turn 1 is from 'assistant' where 'user' was expected"),
        ("uu", "turn 2 is from 'user' where 'assistant' was expected"),
        ("uaa", "turn 3 is from 'assistant' where 'user' was expected"),
        ("us", "turn 2 is from 'system'"),
    ],
)
def test_turns_alternate(roles: str, words: str) -> None:
    names = {"u": "user", "a": "assistant", "s": "system"}
    sample = Sample(tuple(Turn(names[role], ("x",)) for role in roles), "talk")
    with pytest.raises(SampleError, match=f"talk: {words}"):
        Template(system=Form()).pieces(sample)


def test_an_open_answer_follows_a_question() -> None:
    with pytest.raises(SampleError, match="the last turn is the assistant's already"):
        Template().pieces(talk("Hi", "Hello"), open_answer=True)


def test_the_first_question_may_have_a_form_of_its_own() -> None:
    style = Template(user=Form(before="U:"), first_user=Form(before="F:"), bos=False)
    assert written(style.pieces(talk("a", "b", "c", "d"))) == "F:abU:cd"


def test_white_space_is_removed_at_the_ends_only() -> None:
    content = (" a ", PICTURE, " b ")
    sample = Sample((Turn("user", content), Turn("assistant", (" c ",))), "talk")
    assert written(Template(bos=False).pieces(sample)) == "a <hole> bc"
    assert written(Template(bos=False, strip=False).pieces(sample)) == " a <hole> b  c "


def test_unknown_styles_and_roles() -> None:
    with pytest.raises(RecipeError, match=r"unknown template 'sphnx'\. Did you mean 'sphinx'"):
        templates.named("sphnx")
    with pytest.raises(SampleError, match="unknown role 'robot'"):
        Turn("robot", ("a",))
