"""Configurations of transformers, made from a recipe's words, every one of which it must know.

A mistyped word would be kept there and change nothing, so that a field of a recipe that holds such words has
`known()` as its validator: then the file is refused where it is read, with the YAML path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from omnimix.errors import RecipeError
from omnimix.registry import did_you_mean

OF_FILES = frozenset(
    {"_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"}
)
"""Words about the file that a configuration was read from, none of which changes a number."""

CARRIED = {
    *("_attn_implementation", "_name_or_path", "auto_map", "quantization_config"),
    *("task_specific_params", "tokenizer_class"),
    # Up to transformers 4 every configuration had these and wrote them into its file.
    *("add_cross_attention", "cross_attention_hidden_size", "is_decoder", "tie_encoder_decoder"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
    *("finetuning_task", "prefix", "pruned_heads", "tie_word_embeddings"),
    *("tf_legacy_loss", "torchscript", "use_bfloat16"),
    *("gradient_checkpointing", "position_embedding_type"),
}
"""Words that files of the hub carry along, whatever the type, and that transformers keeps for others to read."""


def unknown(config: Any, words: Iterable[str], usual: Any = None) -> list[str]:
    """Those of the words with which a configuration was made that its class has no use for.

    A configuration takes any word. One that it knows is a field or a property of its class, another name of
    one (`attribute_map`), or read when it is made (`torch_dtype`, `rope_theta`) and gone afterwards; any other
    stays behind as a plain attribute, and that is how it is told.
    """
    cls = type(config)
    usual = usual or cls()
    plain = {*vars(cls()), *vars(usual), *usual.to_dict()}
    known = {*CARRIED, *plain, *cls.attribute_map, *cls.attribute_map.values()}
    left = vars(config)
    return [word for word in words if word in left and word not in known and not hasattr(cls, word)]


_COUNTS = re.compile(
    r"(num_)?((hidden|encoder|decoder)_)?layers|num_((attention|key_value)_)?heads|num_channels"
    r"|(\w+_)?(size|dim|width)|d_model"
)
"""Names of sizes and counts, none of which can be below 1 where the class itself has one."""


def _check(config: Any, words: Mapping[str, Any], usual: Any, place: str = "") -> None:
    """Refuse words that a configuration does not know.

    Args:
        usual: the same without any words; inside another one, transformers gives it some of its own.

    Raises:
        RecipeError: names the first, and the nearest known one.
    """
    for word, value in words.items():
        inner = getattr(config, word, None)
        if isinstance(value, Mapping) and hasattr(inner, "attribute_map"):
            own = getattr(usual, word, None)
            _check(inner, value, own, f"{place}.{word}".lstrip("."))
    left = unknown(config, [word for word in words if word != "model_type"], usual)
    if left:
        plain = [word for word in vars(type(config)()) if not word.startswith("_")]
        raise RecipeError(
            f"a configuration of {config.model_type} has no word {left[0]!r}",
            where=place,
            hint=did_you_mean(left[0], [*plain, *type(config).attribute_map]),
        )


def _check_sizes(usual: Any, words: Mapping[str, Any]) -> None:
    """Refuse sizes that nothing can have; transformers takes some, and fails at others in its own words."""
    for word, value in words.items():
        zero = vars(usual).get(usual.attribute_map.get(word, word)) == 0
        if type(value) is int and value < 1 and not zero and _COUNTS.fullmatch(word):
            raise RecipeError(f"{word} is {value}", hint="give a whole number above 0")


def refuse_whole(model_type: str, where: str | None = None) -> None:
    """A model of ours stands in transformers' tables too, and would be made of itself."""
    if model_type == "omnimix":
        raise RecipeError(
            "a whole model of omnimix is no part of another",
            where=where,
            hint="name the folder or the hub id of an encoder or a language model",
        )


def _refuse_code(words: Mapping[str, Any], place: str = "") -> None:
    """transformers would ask at the terminal whether to run what such a word names."""
    for word, value in words.items():
        if word == "auto_map" and value:
            raise RecipeError(
                "auto_map names code beside the weights, which is never run",
                where=f"{place}{word}",
                hint="leave the word out; a class of your own comes by --plugin",
            )
        if isinstance(value, Mapping):
            _refuse_code(value, f"{place}{word}.")


def make(
    words: Mapping[str, Any], model_type: str | None = None, also: Collection[str] = ()
) -> Any:
    """The configuration that a recipe's words make.

    Args:
        model_type: where the words name none.
        also: words that the caller reads off the configuration, whether its type knows them or not.

    Raises:
        RecipeError: no type, a word that the type does not know, or values that transformers refuses.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    whole = {"model_type": model_type, **words}
    if whole["model_type"] is None:
        raise RecipeError(
            "the configuration of transformers needs 'model_type'",
            hint="llama, mistral, clip_vision_model or siglip_vision_model for instance",
        )
    refuse_whole(whole["model_type"])
    _refuse_code(words)
    try:
        usual = AutoConfig.for_model(whole["model_type"])
        _check_sizes(usual, words)
        made = AutoConfig.for_model(**whole)
    except (ValueError, TypeError, ArithmeticError, StrictDataclassError) as error:
        line = str(error).splitlines()[-1].strip(" .")
        raise RecipeError(f"transformers cannot make the configuration ({line})") from None
    _check(made, {word: said for word, said in words.items() if word not in also}, usual)
    return made


def known(model_type: str | None = None, also: Collection[str] = ()) -> AfterValidator:
    """A validator for a field that holds words of a configuration; see `make`."""

    @lru_cache(maxsize=256)  # recipes are read often, and mostly the same ones
    def sound(given: str) -> tuple[str, str | None] | None:
        try:
            make(json.loads(given), model_type, also)
        except RecipeError as error:
            return "; ".join(filter(None, (error.what, error.hint))), error.where
        return None

    def check(given: dict[str, Any]) -> dict[str, Any]:
        wrong = sound(json.dumps(given, default=str))
        if wrong is not None:
            path = tuple(wrong[1].split(".")) if wrong[1] else ()
            context = {"message": wrong[0], "path": path}
            raise PydanticCustomError("config", "{message}", context)
        return given

    return AfterValidator(check)
