"""What a folder of the hub says of its tokenizer: the file and its special tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnimix.errors import RecipeError
from omnimix.hub import looks_like, read_json

_TOKENS = ("bos_token", "eos_token", "pad_token")


def tokenizer(place: Path) -> dict[str, Any]:
    """The words of a recipe's tokenizer out of a folder.

    Raises:
        RecipeError: there is none.
    """
    if not any((place / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise RecipeError(
            f"no tokenizer beside the language model: {looks_like(place)}",
            where=str(place),
            hint="put tokenizer.json there, or write tokenizer: {kind: fast, path: ...}",
        )
    words = {**_config(place, "special_tokens_map.json"), **_config(place, "tokenizer_config.json")}
    found: dict[str, Any] = {"kind": "fast", "path": str(place / "tokenizer.json")}
    found |= {word: token for word in _TOKENS if (token := text(words.get(word))) is not None}
    if words.get("clean_up_tokenization_spaces"):
        found["clean_up_tokenization_spaces"] = True
    return found


def text(token: Any) -> str | None:
    """A token in a tokenizer's configuration: its text, or a table that holds it."""
    token = token.get("content") if isinstance(token, Mapping) else token
    return str(token) if token else None


def _config(place: Path, name: str) -> dict[str, Any]:
    return read_json(place / name) or {}
