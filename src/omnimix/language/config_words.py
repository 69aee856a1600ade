"""Which words a configuration of transformers knows: a mistyped one would be kept there and change nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from omnimix.errors import RecipeError
from omnimix.registry import did_you_mean

CARRIED = frozenset(
    {
        "_attn_implementation",
        "_name_or_path",
        "auto_map",
        "quantization_config",
        "task_specific_params",
        "tokenizer_class",
    }
)
"""Words that files of the hub carry along and that transformers keeps for others to read."""


def unknown(config: Any, words: Iterable[str]) -> list[str]:
    """Those of the words with which a configuration was made that its class has no use for.

    A configuration takes any word. One that it knows is a field or a property of its class, another name of
    one (`attribute_map`), or read when it is made (`torch_dtype`, `rope_theta`) and gone afterwards; any other
    stays behind as a plain attribute, and that is how it is told.
    """
    cls = type(config)
    plain = vars(cls())
    known = {*CARRIED, *plain, *cls.attribute_map, *cls.attribute_map.values()}
    left = vars(config)
    return [word for word in words if word in left and word not in known and not hasattr(cls, word)]


def check(config: Any, words: Mapping[str, Any], where: str) -> None:
    """Refuse words that a configuration does not know.

    Raises:
        RecipeError: names the first, and the nearest known one.
    """
    for word, value in words.items():
        inner = getattr(config, word, None)
        if isinstance(value, Mapping) and hasattr(inner, "attribute_map"):
            check(inner, value, f"{where}.{word}")
    left = unknown(config, [word for word in words if word != "model_type"])
    if left:
        known = [word for word in vars(type(config)()) if not word.startswith("_")]
        raise RecipeError(
            f"a configuration of {config.model_type} has no word {left[0]!r}",
            where=where,
            hint=did_you_mean(left[0], [*known, *type(config).attribute_map]),
        )
