"""What a folder of the hub says of its tokenizer: the file and its special tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omnimix.errors import RecipeError
from omnimix.hub import looks_like, read_json, token_text

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
    files = ("special_tokens_map.json", "tokenizer_config.json")
    words = {word: said for name in files for word, said in (read_json(place / name) or {}).items()}
    found: dict[str, Any] = {"kind": "fast", "path": str(place / "tokenizer.json")}
    found |= {word: token for word in _TOKENS if (token := token_text(words.get(word))) is not None}
    if words.get("clean_up_tokenization_spaces"):
        found["clean_up_tokenization_spaces"] = True
    return found
