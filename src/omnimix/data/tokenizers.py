"""Small tokenizers for models that start from nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

# Words with their space, capitals alone (so that any printed word can be spelled), digits in pairs (so that
# a coordinate is one token), everything else alone.
_PIECES = r" ?[A-Z]?[a-z]+| ?[A-Z]|\d{1,2}|[^A-Za-z\d\s]|\s"
_WHOLE = ("[0.", ", 0.", "]", "Q: ", "A:", "?\n")


def train_tokenizer(texts: Iterable[str], size: int, out: str | Path) -> Tokenizer:
    """Train a byte-level BPE of at most `size` tokens and write it to a `tokenizer.json`.

    Token 0 fills, 1 begins, 2 ends. Any text can be encoded and comes back unchanged.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    pairs = [f"{i:02d}" for i in range(100)]
    letters = [f" {chr(c)}" for c in range(ord("A"), ord("Z") + 1)]
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(_WHOLE),
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    # Pairs and spaced capitals come first and often, so that their merges are certain to be learned.
    sure = [" ".join(pairs + letters) for _ in range(1000)]
    for pair in pairs + letters:
        sure += [pair] * 2000
    tokenizer.train_from_iterator([*sure, *texts], trainer)
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in _WHOLE])
    tokenizer.save(str(out))
    return tokenizer
