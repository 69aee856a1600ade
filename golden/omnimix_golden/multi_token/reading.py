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
    about = frozenset(
        {"backbones", "checkpoint_note", "constants_changed_for_small_encoders", "dims"}
        | {"laid_out_as", "modality_builder", "modality_builder_note"}
        | {"slow_and_fast_tokenizer_give_same_ids"}
    )
    sections: ClassVar[Mapping[str, Section]] = {
        "modalities": multi_token_model.senses,
        "special_tokens_after_fix_tokenizer": multi_token_model.specials,
        "requests": multi_token_model.requests,
        "text_item": multi_token_model.text_item,
        "truncated": multi_token_model.truncated,
        "http": multi_token_model.answers,
        "training": multi_token_train.stages,
    }
