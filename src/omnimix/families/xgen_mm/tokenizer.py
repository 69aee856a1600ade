"""The tokenizer's files, read and written: Phi-3's, with the three marks that xGen-MM adds to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omnimix.errors import CheckpointError
from omnimix.hub import looks_like, read_json, token_text
from omnimix.language.slow_llama import AddedToken, SlowLlama

MARKS = ("<image>", "<image placeholder>", "<|endofchunk|>")
"""Tokens that xGen-MM adds behind the language model's, in this order."""

NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
"""Tokens that the configuration names, and what they are where it does not."""


def read(folder: Path) -> tuple[SlowLlama, bool]:
    """The tokenizer of a folder with the marks, and whether it puts the begin token first.

    Raises:
        CheckpointError: a file is missing, or the tokens stand in another order.
    """
    files = ("tokenizer.model", "tokenizer_config.json")
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"the tokenizer is missing: no {' and no '.join(missing)} ({looks_like(folder)})",
            where=str(folder),
            hint="copy both beside the checkpoint; tokenizer.json alone gives other ids",
        )
    said = read_json(folder / "tokenizer_config.json") or {}
    named: dict[str, Any] = {
        word: token_text(said.get(word)) or default for word, default in NAMED.items()
    }
    if named["pad_token"] == named["eos_token"]:
        # A fill token that also ends would never be learned, so the reference adds one.
        named["pad_token"] = NAMED["pad_token"]
    added = {
        token["content"]: AddedToken(
            content=token["content"],
            id=int(i),
            lstrip=bool(token.get("lstrip")),
            rstrip=bool(token.get("rstrip")),
        )
        for i, token in said.get("added_tokens_decoder", {}).items()
    }
    for text in (named["pad_token"], *MARKS):
        if text not in added:
            free = max((token.id for token in added.values()), default=-1) + 1
            added[text] = AddedToken(content=text, id=free)
    top = max(token.id for token in added.values()) + 1
    if [added[mark].id for mark in MARKS] != list(range(top - len(MARKS), top)):
        raise CheckpointError(
            f"{', '.join(MARKS)} are not the last three tokens",
            where=str(folder),
            hint="use the tokenizer of the release or of the language model alone",
        )
    spec = SlowLlama(
        path="tokenizer.model",
        added_tokens=tuple(added.values()),
        extra_special_tokens=MARKS,
        **named,
    )
    return spec, bool(said.get("add_bos_token"))


def files(spec: SlowLlama, add_bos: bool, length: int, plain: int) -> dict[str, Any]:
    """The files beside `tokenizer.model`, as the original's loader knows them; it adds the marks itself.

    Args:
        length: most tokens of a text.
        plain: ids of the SentencePiece model, in which a few of the added tokens lie.
    """
    own = [token for token in spec.added_tokens if token.content not in MARKS]
    texts = {word: getattr(spec, word) for word in NAMED}
    config = {
        "add_bos_token": add_bos,
        "add_eos_token": False,
        "added_tokens_decoder": {
            str(token.id): {
                "content": token.content,
                "lstrip": token.lstrip,
                "normalized": False,
                "rstrip": token.rstrip,
                "single_word": False,
                "special": token.content in texts.values() or token.rstrip,
            }
            for token in own
        },
        "clean_up_tokenization_spaces": False,
        "legacy": False,
        "model_max_length": length,
        "padding_side": "left",
        "tokenizer_class": "LlamaTokenizer",
        **texts,
    }
    return {
        "tokenizer_config.json": config,
        "special_tokens_map.json": texts,
        "added_tokens.json": {token.content: token.id for token in own if token.id >= plain},
    }


def mark_ids(spec: SlowLlama) -> list[int]:
    """Ids of the marks; the first is how many tokens stand before them."""
    ids = {token.content: token.id for token in spec.added_tokens}
    return [ids[mark] for mark in MARKS]
