"""Llama-type tokenizers as `tokenizers` objects: from a SentencePiece model, and with the old prefix rule.

transformers 4 put "▁" before every stretch of text between special tokens. transformers 5 rebuilds
tokenizers marked `legacy: false` without it behind the first special token, which gives other ids in the
second turn of a conversation. Models trained with the old rule need the old rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnimix.errors import RecipeError

if TYPE_CHECKING:
    from tokenizers import AddedToken

SPACE = "\u2581"  # SentencePiece's visible space


def prefix_every_piece(fast: Any) -> None:
    """Give a tokenizer the old rule: "▁" before every stretch, spaces written as "▁"."""
    from tokenizers import normalizers

    fast.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    # Newer files do the same in the pre-tokenizer, which would prefix twice.
    fast.pre_tokenizer = None


def from_sentencepiece(path: Path | bytes) -> Any:
    """A SentencePiece BPE model (its file, or what stands in it) with byte fallback as a tokenizer of the
    tokenizers library.

    Raises:
        RecipeError: no SentencePiece model, or not a BPE one.
    """
    from sentencepiece import SentencePieceProcessor
    from tokenizers import AddedToken, Tokenizer, decoders, models

    try:
        data = path if isinstance(path, bytes) else path.read_bytes()
        model = SentencePieceProcessor(model_proto=data)
    except (OSError, RuntimeError) as error:
        where = "the tokenizer's file" if isinstance(path, bytes) else str(path)
        raise RecipeError(f"not a SentencePiece model ({error})", where=where) from None
    pieces = [model.id_to_piece(i) for i in range(model.vocab_size())]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    fast = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=merges(model, vocabulary),
            unk_token=model.id_to_piece(model.unk_id()),
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    fast.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    prefix_every_piece(fast)
    special = [i for i in range(len(pieces)) if model.is_control(i) or model.is_unknown(i)]
    fast.add_special_tokens([AddedToken(pieces[i], normalized=False) for i in special])
    return fast


def merges(model: Any, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """The pairs that BPE joins, the likeliest result first.

    SentencePiece stores pieces with scores and joins whatever makes the piece of highest score; the
    tokenizers library stores the pairs in order.
    """
    ranked: list[tuple[float, int, int, tuple[str, str]]] = []  # score, places of both parts, pair
    for piece, i in vocabulary.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                score = -model.get_score(i)
                ranked.append((score, vocabulary[left], vocabulary[right], (left, right)))
    ranked.sort()
    return [pair for *_, pair in ranked]


def with_added(source: Path | bytes, added: Mapping[int, AddedToken]) -> Any:
    """The tokenizer of a SentencePiece model with further tokens (the library's `AddedToken`) by id.

    Raises:
        RecipeError: ids that the tokenizers library, which counts on, cannot give.
    """
    fast = from_sentencepiece(source)
    for id in sorted(added):
        token = added[id]
        (fast.add_special_tokens if token.special else fast.add_tokens)([token])
        if fast.token_to_id(token.content) != id:
            raise RecipeError(
                f"the token {token.content!r} has the id {id}, which leaves a gap before it",
                where="tokenizer.added_tokens",
                hint="transformers' fast tokenizers number added tokens without gaps",
            )
    return fast
