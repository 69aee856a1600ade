"""Our tokenizers as those of transformers, for everybody who asks a processor for its `tokenizer`.

Weaving keeps to our own (`language.tokenizer`), which knows typed text and what stands behind an item.
"""

from __future__ import annotations

from typing import Any

from omnimix.errors import RecipeError
from omnimix.language.tokenizer import Tokenizer


def fast_tokenizer(tokenizer: Tokenizer, chat_template: str | None = None) -> Any:
    """A `PreTrainedTokenizerFast` with the same ids, padding on the left as generation needs it.

    Raises:
        RecipeError: a tokenizer that has no form in the tokenizers library.
    """
    from transformers import PreTrainedTokenizerFast

    make = getattr(tokenizer, "fast", None)
    if make is None:
        raise RecipeError(
            f"the tokenizer {type(tokenizer).__name__} has no form that transformers knows",
            where="tokenizer.kind",
            hint="give its class a method `fast` that makes a tokenizers.Tokenizer of it",
        )
    fast = make()
    offices = {"bos": tokenizer.bos, "eos": tokenizer.eos, "pad": tokenizer.pad}
    named = {
        f"{office}_token": fast.id_to_token(i) for office, i in offices.items() if i is not None
    }
    unknown = getattr(fast.model, "unk_token", None)
    if unknown is not None and fast.token_to_id(unknown) in tokenizer.specials:
        named["unk_token"] = unknown
    others = [fast.id_to_token(i) for i in sorted(tokenizer.specials)]
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        extra_special_tokens=[word for word in others if word not in named.values()],
        chat_template=chat_template,
        clean_up_tokenization_spaces=getattr(tokenizer, "tidy", False),
        padding_side="left",
        **named,
    )
