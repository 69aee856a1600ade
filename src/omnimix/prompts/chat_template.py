"""A style out of the Jinja chat template of a tokenizer.

The template is run on conversations of marks, and what it writes around the marks is the style. Nothing is
guessed: a template that does not write every turn the same way is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from omnimix.errors import RecipeError
from omnimix.prompts import template as templates
from omnimix.prompts.template import Form, Template

_MARKS = ("\u27e81\u27e9", "\u27e82\u27e9", "\u27e83\u27e9", "\u27e84\u27e9")
_ROLES = ("user", "assistant", "user", "assistant")


class _Refused(Exception):
    """The template itself refuses a conversation."""


def read(jinja: str, bos: str | None, eos: str | None, name: str = "chat template") -> Template:
    """The style that a chat template writes; the shipped one where it is the same.

    Args:
        jinja: the template.
        bos, eos: the tokens it may write.

    Raises:
        RecipeError: no template, or one that writes turns of a role in different ways.
    """
    write = _writer(jinja, bos or "", eos or "", name)
    head, asked, between, again, tail = _around(write(_MARKS), _MARKS, name)
    (first, opened) = _around(write(_MARKS[:1], True), _MARKS[:1], name)
    if first != head or again != asked or not between.startswith(tail):
        raise _odd(name)
    if not asked.startswith(opened) or asked[len(opened) :].strip():
        raise _odd(name)
    begins = bool(bos) and head.startswith(str(bos))
    start = head.removeprefix(str(bos)) if begins else head
    user = Form(before=between[len(tail) :], after=opened)
    spaced = f" {_MARKS[0]} "
    words: dict[str, Any] = {
        "name": name,
        "bos": begins,
        "user": user,
        "assistant": Form(lead=asked[len(opened) :], after=tail),
        "stop_strings": (eos,) if eos else (),
        "tokenize": "turns",
        "contents": "special",
        "strip": spaced not in write([spaced], True),
    }
    system, default = _system(write, str(bos) if begins else "", start, user.before)
    if system is not None:
        words["system"] = system
    if default is not None:
        words["default_system"] = default
    elif start != user.before:
        words["first_user"] = Form(before=start, after=opened)
    found = Template(**words)
    known = templates.named("mistral_instruct")
    return known if found.model_copy(update={"name": known.name}) == known else found


def _system(write: Any, bos: str, start: str, later: str) -> tuple[Form | None, str | None]:
    """The form of a system turn in front of a first question, and the text that stands where there is none.

    Args:
        start: what stands before a first question without a system turn.
        later: what stands before any other question.
    """
    try:
        text = write(_MARKS[:2], roles=("system", "user"))
    except _Refused:
        return None, None
    pieces = _split(text.removeprefix(bos), _MARKS[:2])
    if pieces is None:
        return None, None
    before, between = pieces[:2]
    if between.endswith(start):
        return Form(before=before, after=between.removesuffix(start)), None
    form = Form(before=before, after=between.removesuffix(later))
    default = start.removeprefix(before).removesuffix(form.after + later)
    # Only where the text without a system turn is the one with this default, to the letter.
    if between.endswith(later) and start == before + default + form.after + later:
        return form, default
    return None, None


def _around(text: str, marks: Sequence[str], name: str) -> list[str]:
    found = _split(text, marks)
    if found is None:
        raise _odd(name)
    return found


def _split(text: str, marks: Sequence[str]) -> list[str] | None:
    """What stands around the marks; None where they are not there once each, in order."""
    found = []
    for mark in marks:
        before, there, text = text.partition(mark)
        if not there or mark in text:
            return None
        found.append(before)
    return [*found, text]


def _odd(name: str) -> RecipeError:
    return RecipeError(
        "the chat template writes turns of one role in different ways",
        where=name,
        hint="name a style of omnimix in its place, or write one as words of `template`",
    )


def _writer(jinja: str, bos: str, eos: str, name: str) -> Any:
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise _Refused(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    try:
        compiled = environment.from_string(jinja)
    except TemplateError as error:
        raise RecipeError(f"no chat template ({error})", where=name) from None

    def write(
        texts: Sequence[str], open_answer: bool = False, roles: Sequence[str] = _ROLES
    ) -> str:
        pairs = zip(roles, texts, strict=False)
        messages = [{"role": role, "content": text} for role, text in pairs]
        try:
            return str(
                compiled.render(
                    messages=messages,
                    add_generation_prompt=open_answer,
                    bos_token=bos,
                    eos_token=eos,
                )
            )
        except _Refused:
            if "system" in roles:
                raise
            raise _odd(name) from None
        except (TemplateError, TypeError, ValueError) as error:
            raise RecipeError(f"the chat template cannot be run ({error})", where=name) from None

    return write


def of(words: Mapping[str, Any]) -> str | None:
    """The chat template among the words of a `tokenizer_config.json`; None where it has none.

    Where there are several, the one named `default`.
    """
    found = words.get("chat_template")
    if isinstance(found, list):
        named = {row.get("name"): row.get("template") for row in found if isinstance(row, Mapping)}
        found = named.get("default")
    return found if isinstance(found, str) else None


_TYPED = (
    "{% macro said(content) %}{% if content is string %}{{ content }}{% else %}{% for part in content %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}{{ '<' + part['type'] + '>' }}"
    "{% endif %}{% endfor %}{% endif %}{% endmacro %}"
)
"""What a message says: a text, or parts of which each item is the mark of its kind."""


def written(style: Template) -> str:
    """A chat template that writes a style; `read` makes the style of it where it has no more to say.

    The messages' contents are texts, and an answer is opened by nothing, as in older tokenizers.
    """
    return _written(style, "message['content']")


def typed(style: Template) -> str | None:
    """A chat template that writes a style, its begin and end tokens too; None where none can.

    A content may be parts (`{"type": "image"}`), which become marks such as `<image>`.
    """
    if style.captions or style.strip_prompt or style.blank or style.empty_user is not None:
        return None
    opened = json.dumps(style.assistant.before)
    opens = f"{{% if add_generation_prompt %}}{{{{ {opened} }}}}{{% endif %}}"
    end = "{{ eos_token }}" if style.eos else ""
    return _TYPED + _written(style, "said(message['content'])", end) + opens


def turns(style: Template, text: str, bos: str, eos: str) -> list[tuple[str, str]] | None:
    """The roles and contents of a prompt in this style, as `typed` writes it; None where it is none.

    The last of them is a question where the text ends open, ready for the answer.
    """
    rest = text.removeprefix(bos) if style.bos else text
    found: list[tuple[str, str]] = []
    answer, end = style.assistant, style.assistant.after + (eos if style.eos else "")
    if style.system is not None and style.system.before and rest.startswith(style.system.before):
        content, _, rest = rest[len(style.system.before) :].partition(style.system.after or "\0")
        found.append(("system", content))
    form = style.first_user or style.user
    while rest:
        content, closed, rest = _taken(rest, form.before + form.lead, form.after + answer.before)
        found.append(("user", content))
        form = style.user
        if closed and rest:
            content, closed, rest = _taken(rest, answer.lead, end)
            found.append(("assistant", content))
        if not closed:
            return None
    return found or None


def _taken(text: str, before: str, after: str) -> tuple[str, bool, str]:
    """What stands between two words at the beginning of a text, whether it does, and what follows."""
    content, there, rest = text[len(before) :].partition(after or "\0")
    return content, bool(there) and text.startswith(before), rest


def _written(style: Template, content: str, end: str = "") -> str:
    begin = "{{ bos_token }}" if style.bos else ""
    first = style.first_user or style.user
    strip = content + (" | trim" if style.strip else "")
    refuse = "{{ raise_exception('this style has no turn of the ' + message['role']) }}"
    default = style.default_system
    if style.system and default is not None:
        text = default.strip() if style.strip else default
        front = json.dumps(style.system.before + text + style.system.after)
        begin += f"{{% if messages[0]['role'] != 'system' %}}{{{{ {front} }}}}{{% endif %}}"
    system = (
        _branch("elif", "system", style.system.before, style.system.after, strip)
        if style.system
        else "{% elif message['role'] == 'system' %}"
        if style.drop_system
        else ""
    )
    opening = "loop.first" + (
        " or loop.index == 2 and messages[0]['role'] == 'system'" if system else ""
    )
    user = f"{{% if {opening} %}}{_said(first.before, first.after, strip)}{{% else %}}"
    user += f"{_said(style.user.before, style.user.after, strip)}{{% endif %}}"
    before = style.assistant.before + style.assistant.lead
    answer = _branch("elif", "assistant", before, style.assistant.after, strip) + end
    return (
        f"{begin}{{% for message in messages %}}{{% if message['role'] == 'user' %}}{user}{answer}"
        f"{system}{{% else %}}{refuse}{{% endif %}}{{% endfor %}}"
    )


def _branch(word: str, role: str, before: str, after: str, strip: str) -> str:
    return f"{{% {word} message['role'] == '{role}' %}}{_said(before, after, strip)}"


def _said(before: str, after: str, strip: str) -> str:
    return f"{{{{ {json.dumps(before)} + ({strip}) + {json.dumps(after)} }}}}"
