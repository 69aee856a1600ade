"""Golden cases of multi_token: which word of case.json asks for which comparisons.

`multi_token_model` compares a conversation stage by stage, `multi_token_train` both training stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from omnimix_golden.multi_token import model as multi_token_model, train as multi_token_train
from omnimix_golden.multi_token.case import MultiTokenCase
from omnimix_golden.run import Section


class MultiTokenReading(MultiTokenCase):
    """Cases of the family `multi_token`."""

    family = "multi_token"
    sections: ClassVar[Mapping[str, Section]] = {
        "modalities": multi_token_model.senses,
        "special_tokens_after_fix_tokenizer": multi_token_model.specials,
        "requests": multi_token_model.requests,
        "text_item": multi_token_model.text_item,
        "truncated": multi_token_model.truncated,
        "http": multi_token_model.answers,
        "training": multi_token_train.stages,
    }
