"""CLIP's word list (`bpe_simple_vocab_16e6.txt.gz`) as a tokenizer; ImageBind reads texts with it too.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision (2021): byte pairs over
lower-cased words, each closed by `</w>`, a start and an end token around the text.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

MERGES = 49152 - 256 - 2
"""Pairs of the published list that are used; what stands behind them is not."""

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def letters() -> list[str]:
    """A printable letter for each byte, in the order of CLIP's ids: printable bytes first."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return [*map(chr, plain), *(chr(256 + i) for i in range(len(rest)))]


def load(path: Path) -> Any:
    """The tokenizer of a gzipped list, whose first line is its version.

    Raises:
        OSError, EOFError, UnicodeDecodeError: it cannot be read.
        ValueError: a line that is no pair.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : MERGES + 1]
    split = [line.split() for line in lines if line]
    if any(len(pair) != 2 for pair in split):
        raise ValueError("a line is no pair of pieces")
    pairs = [(first, second) for first, second in split]
    single = letters()
    pieces = [*single, *(letter + WORD_END for letter in single)]
    pieces += ["".join(pair) for pair in pairs]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, START, END])}
    bpe = models.BPE(vocab=vocabulary, merges=pairs, end_of_word_suffix=WORD_END)
    found = Tokenizer(bpe)
    found.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    found.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    ends = [(token, vocabulary[token]) for token in (START, END)]
    found.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=ends
    )
    return found
