"""The recipe of a multi_token folder: its configuration, the base model's tokenizer and style, the senses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnimix.checkpoints.base import looks_like, read_json
from omnimix.compose import recipe as recipes
from omnimix.compose.recipe import Recipe
from omnimix.errors import CheckpointError, RecipeError
from omnimix.families.multi_token.names import Lora
from omnimix.prompts import chat_template

_NOISE = frozenset(
    {
        "_name_or_path",
        "architectures",
        "auto_map",
        "dtype",
        "modalities",
        "modality_builder",
        "model_cls",
        "model_type",
        "pad_token_id",
        "quantization_config",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
"""Words of config.json that say nothing about the network."""

STYLE = "mistral_instruct"


def build(
    name: str,
    facts: Mapping[str, Any],
    llm: Path,
    senses: Mapping[str, Any],
    adapters: list[dict[str, Any]] | None = None,
) -> Recipe:
    """The recipe of a model.

    Args:
        facts: its config.json.
        llm: folder of the base model's tokenizer.
        senses: words of its modalities by our names.
        adapters: words of adapters that stay beside the weights.

    Raises:
        RecipeError: words that do not fit together.
        CheckpointError: no tokenizer.
    """
    words = {
        "name": name,
        "about": f"multi_token with {', '.join(senses)}.",
        "language": {"kind": "causal_lm", "config": language(facts)},
        "tokenizer": tokenizer(llm),
        "template": template(llm),
        "modalities": dict(senses),
    }
    if adapters:
        words["adapters"] = adapters
    return recipes.parse(words, "config.json")


def language(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's configuration: `mistral-lmm` is a `mistral`."""
    kind = str(facts.get("model_type", "mistral-lmm")).removesuffix("-lmm")
    words = {word: v for word, v in facts.items() if word not in _NOISE and v is not None}
    # A null window is a statement in Mistral's words: transformers takes 4096 where it is silent.
    if "sliding_window" in facts:
        words["sliding_window"] = facts["sliding_window"]
    return {"model_type": kind, **words}


def tokenizer(llm: Path) -> dict[str, Any]:
    """The base model's tokenizer; the unknown token fills, as the reference has it.

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
    bos, eos, unk = (_token(words.get(f"{x}_token")) for x in ("bos", "eos", "unk"))
    return {
        "kind": "fast",
        "path": "tokenizer.json",
        "bos_token": bos or "<s>",
        "eos_token": eos or "</s>",
        "pad_token": unk or "<unk>",
        # Every stretch begins with a space, as transformers 4 did it for all tokenizers of Llama's kind.
        "prefix": "every",
        "clean_up_tokenization_spaces": bool(words.get("clean_up_tokenization_spaces")),
    }


def template(llm: Path) -> Any:
    """The style that the tokenizer's chat template writes; Mistral's first where it has none."""
    words = read_json(llm / "tokenizer_config.json") or {}
    jinja = chat_template.of(words)
    file = llm / "chat_template.jinja"
    if jinja is None and file.is_file():
        jinja = file.read_text(encoding="utf-8")
    if jinja is None:
        return STYLE
    bos, eos = (_token(words.get(f"{x}_token")) for x in ("bos", "eos"))
    try:
        found = chat_template.read(jinja, bos or "<s>", eos or "</s>", llm.name)
    except RecipeError as error:
        raise CheckpointError(error.what, where=str(llm), hint=error.hint) from None
    return found.name if found.name == STYLE else found.dump()


def adapters(lora: Lora) -> list[dict[str, Any]]:
    """An adapter as words of a recipe."""
    return [
        {
            "kind": "lora",
            "part": "language",
            "r": lora.rank,
            "lora_alpha": lora.scale * lora.rank,
            "lora_dropout": lora.dropout,
            "target_modules": list(lora.targets),
        }
    ]


def _token(found: Any) -> str | None:
    """A token in a tokenizer's configuration: its text, or a table that holds it."""
    found = found.get("content") if isinstance(found, Mapping) else found
    return str(found) if found else None
