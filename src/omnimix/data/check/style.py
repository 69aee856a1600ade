"""Whether the words of a prompt style are tokens of the tokenizer."""

from __future__ import annotations

import re
from collections.abc import Iterator

from omnimix.language.tokenizer import Tokenizer
from omnimix.prompts.template import Form, Template

_SPECIAL = re.compile(r"<\|[^<>|\s]+\|>|</?[a-z][a-z0-9]*(?:_[a-z0-9]+)*>|<\uff5c[^<>\s]+\uff5c>")


def style_faults(template: Template, tokenizer: Tokenizer) -> Iterator[str]:
    """Special tokens that a style writes and the tokenizer cuts into pieces, or has not at all."""
    forms = (template.system, template.first_user, template.user, template.assistant)
    text = "".join(f"{f.before}{f.lead}{f.after}" for f in forms if isinstance(f, Form))
    for word in dict.fromkeys(_SPECIAL.findall(text)):
        pieces = len(tokenizer.encode(f"a{word}")[0]) - len(tokenizer.encode("a")[0])
        unknown = tokenizer.decode(tokenizer.encode(word)[0], specials=True)
        if pieces != 1 or word not in unknown:
            how = f"reads it as {pieces} pieces" if word in unknown else "cannot write it"
            yield (
                f"the style {template.name!r} writes {word}, for which the tokenizer has no token (it {how})"
            )
    if template.eos and tokenizer.eos is None:
        yield f"the style {template.name!r} ends answers with an end token, and the tokenizer has none"
