"""The words of a multi_token folder and the recipe they make, in both directions.

A folder says them in its configuration and its adapter's, the base model in that of its tokenizer, and an encoder in
its own folder, which `senses` turns into words of a modality and back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnimix.compose import recipe as recipes
from omnimix.compose.recipe import Recipe
from omnimix.errors import CheckpointError, RecipeError
from omnimix.families.multi_token.senses import BUILDERS, SENSES, THEIRS
from omnimix.hub import looks_like, read_json, token_text
from omnimix.prompts import chat_template


@dataclass(frozen=True)
class Words:
    """What a folder and its parts say together.

    Attributes:
        name: of the folder.
        config: its config.json.
        tokenizer: tokenizer_config.json of the base model, its chat template among it.
        adapter: of an adapter that stays beside the weights: `r`, `lora_alpha` and `lora_dropout` of its
            adapter_config.json, and as `target_modules` the layers it sits on, named from their block on.
        senses: words of each modality, by the reference's name.
    """

    name: str
    config: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    adapter: Mapping[str, Any] | None
    senses: Mapping[str, Mapping[str, Any]]


_NOISE = re.compile(
    r"_name_or_path|architectures|auto_map|(torch_)?dtype|modalit.*|model_(cls|type)|pad_token_id|quantization_config|transformers_version|use_cache"
)
"""Words of config.json that say nothing about the network."""

STYLE = "mistral_instruct"

LLM = "backbones/llm"
"""Where a folder that is written holds the base model."""

_LORA = {"kind": "lora", "part": "language"}


def recipe(words: Words) -> Recipe:
    """The recipe of a model.

    Raises:
        RecipeError: words that do not fit together.
        CheckpointError: a chat template that is none of ours.
    """
    ours = {SENSES[theirs].name: told for theirs, told in words.senses.items()}
    return recipes.parse(
        {
            "name": words.name,
            "about": f"multi_token with {', '.join(ours)}.",
            "language": {"kind": "causal_lm", "config": _language(words.config)},
            "tokenizer": _tokenizer(words.tokenizer),
            "template": _template(words.tokenizer),
            "modalities": ours,
            "adapters": [] if words.adapter is None else [{**_LORA, **words.adapter}],
        },
        "config.json",
    )


def words_of(recipe: Recipe) -> Words:
    """The inverse.

    Raises:
        LookupError: a modality that the reference does not have, or none at all.
        ValueError: adapters that are not one LoRA, or an encoder that is prepared in another way.
    """
    odd = [name for name in recipe.modalities if name not in THEIRS]
    if odd or not recipe.modalities:
        what = f"it has the modality {odd[0]!r}" if odd else "it has no modality"
        raise LookupError(f"{what}, and there are {', '.join(THEIRS)}")
    senses = {THEIRS[name]: spec.dump() for name, spec in recipe.modalities.items()}
    for theirs, told in senses.items():
        SENSES[theirs].told(told)  # refused here, before anything is written
    return Words(
        recipe.name, _config(recipe, senses), _tokenizer_words(recipe), _adapter(recipe), senses
    )


# --- the language model ---


def _language(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's configuration: `mistral-lmm` is a `mistral`."""
    kind = str(config.get("model_type", "mistral-lmm")).removesuffix("-lmm")
    # A null window is a statement in Mistral's words: transformers takes 4096 where it is silent.
    words = {
        word: said
        for word, said in config.items()
        if not _NOISE.fullmatch(word) and (said is not None or word == "sliding_window")
    }
    return {"model_type": kind, **words}


def _config(recipe: Recipe, senses: Mapping[str, Any]) -> dict[str, Any]:
    words = dict(recipe.language.config)
    kind = str(words.pop("model_type"))
    builder = "+".join(senses)
    return {
        "_name_or_path": LLM,
        "architectures": ["MistralForCausalLM"],
        **words,
        "modalities": list(senses),
        # A builder of the reference's table says how many tokens; any other leaves that to the projector.
        "modality_builder": builder if builder not in BUILDERS else f"{builder}+",
        "model_cls": "MistralLMMForCausalLM",
        "model_type": f"{kind}-lmm",
    }


def _adapter(recipe: Recipe) -> dict[str, Any] | None:
    if not recipe.adapters:
        return None
    words = recipe.adapters[0].model_dump()
    if len(recipe.adapters) > 1 or any(words[word] != said for word, said in _LORA.items()):
        raise ValueError(
            "its adapters are not one LoRA on the language model; merge them first: omnimix merge FOLDER OUT"
        )
    return {word: said for word, said in words.items() if word not in _LORA}


# --- the base model's tokenizer and its style ---


def tokenizer_of(llm: Path) -> dict[str, Any]:
    """What the base model's folder says of its tokenizer.

    Raises:
        CheckpointError: there is none.
    """
    if not any((llm / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise CheckpointError(
            f"no tokenizer beside the language model: {looks_like(llm)}",
            where=str(llm),
            hint="it holds tokenizer.model or tokenizer.json and tokenizer_config.json",
        )
    words = read_json(llm / "tokenizer_config.json") or {}
    jinja, file = chat_template.of(words), llm / "chat_template.jinja"
    if jinja is None and file.is_file():
        jinja = file.read_text(encoding="utf-8")
    tokens = {theirs: token_text(words.get(theirs)) for theirs, _ in _TOKENS.values()}
    return {**words, **tokens, "chat_template": jinja}


_TOKENS = {
    "bos_token": ("bos_token", "<s>"),
    "eos_token": ("eos_token", "</s>"),
    "pad_token": ("unk_token", "<unk>"),
}
"""Our words of the tokens, theirs, and what is usual. The unknown token fills, as the reference has it."""


def _tokenizer(words: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": "fast",
        "path": "tokenizer.json",
        **{ours: words[theirs] or usual for ours, (theirs, usual) in _TOKENS.items()},
        # Every stretch begins with a space, as transformers 4 did it for all tokenizers of Llama's kind.
        "prefix": "every",
        "clean_up_tokenization_spaces": bool(words.get("clean_up_tokenization_spaces")),
    }


def _template(words: Mapping[str, Any]) -> Any:
    """The style that the chat template writes; Mistral's first where there is none."""
    if words["chat_template"] is None:
        return STYLE
    said = _tokenizer(words)
    bos, eos = said["bos_token"], said["eos_token"]
    try:
        style = chat_template.read(words["chat_template"], bos, eos, "chat_template")
    except RecipeError as error:
        raise CheckpointError(error.what, where="chat_template", hint=error.hint) from None
    return style.name if style.name == STYLE else style.dump()


def _tokenizer_words(recipe: Recipe) -> dict[str, Any]:
    spec = recipe.tokenizer
    return {
        **{theirs: getattr(spec, ours, None) for ours, (theirs, _) in _TOKENS.items()},
        "chat_template": chat_template.written(recipe.template),
        "clean_up_tokenization_spaces": bool(getattr(spec, "clean_up_tokenization_spaces", False)),
        "legacy": True,
        "tokenizer_class": "LlamaTokenizer",
    }
