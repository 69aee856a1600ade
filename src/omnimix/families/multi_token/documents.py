"""Long texts as lists of short documents, as the document modality wants them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from omnimix.checkpoints import parts as places
from omnimix.config import validate
from omnimix.language.tokenizer import FastTokenizer, Tokenizer

_ENDS = re.compile(r"[.!?][\"')\]]*(?=\s+[\"'(\[]*[A-Z0-9\u00c0-\u00de])")
_SHORT = re.compile(r"\b(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e|No|Fig|al)\.$")
PIECES = 512
"""Word pieces of a document in the reference; its encoder then adds two and cuts what is over."""


def sentences(text: str) -> Iterator[str]:
    """Sentences in order, without the white space between them.

    The reference asks nltk's trained splitter, whose data cannot be shipped; this rule ends a sentence behind
    `.`, `!` or `?` where a capital or digit follows, abbreviations apart.
    """
    start = 0
    for match in _ENDS.finditer(text):
        sentence = text[start : match.end()].strip()
        if sentence and not _SHORT.search(sentence):
            yield sentence
            start = match.end()
    rest = text[start:].strip()
    if rest:
        yield rest


HUB = "thenlper/gte-large"
"""The document encoder of the releases, whose tokenizer counts the pieces."""


def split_text_into_documents(
    text: str, tokenizer: Tokenizer | str | Path = HUB, most: int = PIECES
) -> list[str]:
    """Sentences packed one after another into documents of at most `most` word pieces.

    Texts are what the tokenizer makes of the pieces again, lower-cased where it is. A sentence that is longer
    is not cut: it stands alone, and the encoder cuts it. The reference puts an empty document before such a
    one at the very beginning; here there is none.

    Args:
        tokenizer: of the document encoder: itself, or where the encoder lies (a hub id or a folder).

    Raises:
        CheckpointError: no such encoder to be had, or one without a tokenizer.
    """
    if isinstance(tokenizer, str | Path):
        folder = places.folder(tokenizer, "document_gte", places.CONFIGS)
        words = {"pad_token": "[PAD]", "clean_up_tokenization_spaces": True}
        spec = validate(FastTokenizer, {"path": "tokenizer.json", **words}, "document_gte")
        tokenizer = spec.load([folder])
    documents: list[list[int]] = [[]]
    for sentence in sentences(text):
        ids, _ = tokenizer.encode(sentence)
        if documents[-1] and len(documents[-1]) + len(ids) > most:
            documents.append([])
        documents[-1] += ids
    return [tokenizer.decode(ids) for ids in documents if ids]
