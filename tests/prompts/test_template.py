"""Templates: what each house style writes, and the order of turns it insists on."""

from __future__ import annotations

import pytest

from omnimix.errors import RecipeError, SampleError
from omnimix.prompts import template as templates
from omnimix.prompts.template import Break, Form, Hole, Piece, Template, Text, Token
from omnimix.types import Media, Sample, Turn
from tests.cases import golden

PICTURE = Media.image("a.png")


def talk(*texts: str, system: str | None = None) -> Sample:
    turns = [Turn(("user", "assistant")[i % 2], (text,)) for i, text in enumerate(texts)]
    return Sample((*([Turn("system", (system,))] if system is not None else []), *turns), "talk")


def written(pieces: list[Piece], learned: bool | None = None) -> str:
    """The text as a person reads it; tokens and holes as marks."""
    text = ""
    for piece in pieces:
        if isinstance(piece, Break):
            continue
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
    assert style.stop_strings, "a style names what ends an answer"
    opened = style.pieces(talk("What?"), open_answer=True)
    before = style.assistant.before
    assert written(opened).endswith(before.rstrip() if style.strip_prompt else before)
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


BUILDERS = {
    "pure": "pure",
    "llama2-chat": "llama2_chat",
    "vicuna-v15": "vicuna_v15",
    "mistral-instruct": "mistral_prismatic",
    "phi-2": "phi",
}


def test_prismatic_styles_write_what_was_published() -> None:
    _, facts, _ = golden("prismatic/text_and_data")
    seen = set()
    for case in facts["prompts"]:
        style = templates.named(BUILDERS[case["builder"]])
        system = case["system_prompt"]
        turns = [] if system is None else [Turn("system", (system,))]
        for turn in case["turns"]:
            asked = turn["role"] == "human"
            if asked:
                so_far = Sample(tuple(turns), "talk") if turns else None
                assert style.preview(so_far, turn["message"]) == (turn["potential_prompt_before"])
            message = turn["message"].replace("<image>", "")
            turns.append(Turn("user" if asked else "assistant", (message,)))
            sample = Sample(tuple(turns), "talk")
            assert style.wrapped(sample, asked)[-1] == turn["wrapped"]
            assert style.text(sample, asked) == turn["prompt_after"]
        seen.add(case["builder"])
    assert seen == set(BUILDERS)


def test_training_breaks_at_every_turn() -> None:
    pieces = templates.named("phi").pieces(talk("Hi", "Ho", "So", ""))
    texts: list[str] = [""]
    for piece in pieces:
        texts = (
            [*texts, ""]
            if isinstance(piece, Break)
            else [*texts[:-1], texts[-1] + written([piece])]
        )
    first = "<|endoftext|>Input: Hi\nOutput: "
    assert texts == [first, "Ho\n<eos>", "Input: So\nOutput: ", " \n<eos>", ""]
    stripped = templates.named("pure").pieces(talk("Hi", "Ho"))
    assert written(stripped) == "<bos>In: Hi\nOut:Ho<eos>"
    assert Break() not in templates.named("pure").pieces(talk("Hi"), open_answer=True)


def test_captions_have_no_question() -> None:
    sample = Sample(
        (Turn("user", (PICTURE, "Write a caption.")), Turn("assistant", ("A cup",))), "c"
    )
    assert written(templates.named("caption").pieces(sample)) == "<bos><hole>A cup<eos>"


def test_words_around_an_item_that_stands_apart_are_joined() -> None:
    sample = Sample((Turn("user", ("\n Is ", PICTURE, " it? ")), Turn("assistant", ("Yes",))), "c")
    style = Template(bos=False)
    assert written(style.pieces(sample, apart=lambda media: True)) == "<hole>Is  it?Yes"
    assert written(style.pieces(sample)) == "Is <hole> it?Yes"


def test_vicuna_in_full() -> None:
    found = written(templates.named("vicuna_v15").pieces(talk("Hi", "Hello", "Bye", "So long")))
    # The space before an answer is the tokenizer's own: turns are tokenized apart.
    system = templates.named("vicuna_v15").default_system
    assert found == (f"<bos>{system} USER: Hi ASSISTANT:Hello<eos>USER: Bye ASSISTANT:So long<eos>")


def test_a_system_text_replaces_the_default() -> None:
    found = written(templates.named("phi3").pieces(talk("Hi", system="Be brief."), True))
    assert found == ("<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n")


@pytest.mark.parametrize("name", ["plain", "mistral_instruct"])
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


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ((PICTURE, "Q"), "<hole>|Q"),
        ((PICTURE, "\n Q"), "<hole>|Q"),
        ((PICTURE, "\n", Media.image("b.png"), "\nQ"), "<hole>|<hole>|Q"),
        (("Q ", PICTURE, " R"), "Q <hole> R"),
        ((PICTURE,), "<hole>"),
        ((PICTURE, "\n"), "<hole>"),
        (("Q",), "Q"),
    ],
)
def test_a_picture_and_a_question_are_put_together_in_one_way(content: object, shown: str) -> None:
    words = {"base": "plain", "media_separator": "|", "user": {"after": ""}}
    style = Template.model_validate(templates.resolve(words))
    assert style.assistant == templates.named("plain").assistant
    asked = Sample((Turn("user", content),), "talk")  # type: ignore[arg-type]
    assert written(style.pieces(asked, True)) == f"<bos>{shown}A:"


def test_a_base_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="unknown template 'plane'; did you mean 'plain'"):
        templates.resolve({"base": "plane"})
