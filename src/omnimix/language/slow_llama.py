"""SentencePiece under the rules of transformers' slow Llama tokenizer (`use_fast=False`, `legacy=False`).

Each of the rules changes ids that released weights have learned:

1. One "▁" is put before the *whole* text; what follows an added token, or an item, gets none.
2. Added tokens are cut out first, the longest one at each place; some swallow the white space behind them.
3. The "▁" stays alone in front of an added token that opens the text, unless that token is special (begin,
   end, unknown, fill or one of `marks`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from omnimix.config import Spec
from omnimix.errors import RecipeError
from omnimix.language import llama_bpe
from omnimix.language.tokenizer import Span, Tokenizer, TokenizerSpec, cut, finder

# NormalizerSpec.add_dummy_prefix = false, to be merged into the model (protobuf joins repeated messages).
_NO_PREFIX = b"\x1a\x02\x18\x00"
_SPACE = "\u2581"  # how SentencePiece writes a space


class AddedToken(Spec):
    """A token that is cut out of the text before SentencePiece sees it.

    Attributes:
        content: how it is written.
        id: its row in the embedding.
        lstrip, rstrip: whether it swallows the white space before or behind it.
    """

    content: str
    id: int
    lstrip: bool = False
    rstrip: bool = False


class SlowLlama(TokenizerSpec):
    """A SentencePiece `tokenizer.model` and its added tokens, encoded as the slow Llama tokenizer does.

    Attributes:
        added_tokens: all added tokens with their ids, those inside the model's vocabulary too.
        bos_token, eos_token, unk_token, pad_token: the tokens that begin, end, stand for the unknown and fill.
        extra_special_tokens: further special tokens; specials are left out of decoded text, other added tokens stay.
    """

    kind: Literal["slow_llama"] = "slow_llama"
    saved_as: ClassVar[str] = "tokenizer.model"
    added_tokens: tuple[AddedToken, ...] = ()
    bos_token: str = "<s>"  # noqa: S105
    eos_token: str = "</s>"  # noqa: S105
    unk_token: str = "<unk>"  # noqa: S105
    pad_token: str | None = None
    extra_special_tokens: tuple[str, ...] = ()

    def load(self, folders: Sequence[Path]) -> Tokenizer:
        return _SlowLlama(self, self.find(folders))


class _SlowLlama:
    def __init__(self, spec: SlowLlama, path: Path) -> None:
        self._spec = spec
        self._file = path / "tokenizer.model" if path.is_dir() else path
        try:
            self._load(self._file.read_bytes())
        except (OSError, RuntimeError) as error:
            raise RecipeError(f"not a SentencePiece model ({error})", where=str(path)) from None
        self._added = {token.content: token for token in spec.added_tokens}
        self._finder = finder(dict.fromkeys(self._added, ("", "")))
        self._words = {token.id: token.content for token in spec.added_tokens}
        top = max((token.id for token in spec.added_tokens), default=-1) + 1
        self.base = int(self._model.vocab_size())  # ids of the model itself
        self.size = max(self.base, top)
        self.bos: int | None = self._id(spec.bos_token)
        self.eos: int | None = self._id(spec.eos_token)
        self._unk = self._id(spec.unk_token)
        self.pad = self._id(spec.pad_token or spec.eos_token)
        marks = {self._id(word) for word in spec.extra_special_tokens}
        self.specials = frozenset(
            {self._id(spec.bos_token), self._id(spec.eos_token), self._unk, self.pad}
        )
        self.specials |= marks
        # Those stand apart in decoded text, with a space on both sides.
        self._apart = {i for i in self._words if i not in self.specials}
        self._apart |= {i for i in marks if i >= self.base}
        self._unknown_pieces = len(self._model.encode(spec.unk_token))

    def _load(self, data: bytes) -> None:
        from sentencepiece import SentencePieceProcessor

        self._data = data
        self._model = SentencePieceProcessor(model_proto=data + _NO_PREFIX)

    def _id(self, word: str) -> int:
        if word in self._added:
            return self._added[word].id
        found = int(self._model.piece_to_id(word))
        if self._model.id_to_piece(found) != word:
            raise RecipeError(
                f"the tokenizer has no token {word!r}",
                where=str(self._file),
                hint="name it in tokenizer.added_tokens with its id",
            )
        return found

    def encode(
        self, text: str, follows: bool = False, typed: Sequence[Span] = ()
    ) -> tuple[list[int], list[int]]:
        if not text:
            return [], []
        plain = text.replace(_SPACE, " ")
        shift = 0 if follows else 1
        moved = [(begin + shift, end + shift) for begin, end in typed]
        pieces = cut(plain if follows else _SPACE + plain, self._finder, moved)
        ids: list[int] = []
        starts: list[int] = []
        for piece, start, added in self._stripped(pieces):
            if added is not None:
                ids.append(self._added[added].id)
                starts.append(max(start - shift, 0))
                continue
            for i, begin in self._pieces(piece):
                ids.append(i)
                starts.append(max(start + begin - shift, 0))
        if not follows and len(ids) > 1 and self._is_space(ids[0]) and ids[1] in self.specials:
            return ids[1:], starts[1:]
        return ids, starts

    def _stripped(
        self, pieces: list[tuple[str, int, str | None]]
    ) -> Iterator[tuple[str, int, str | None]]:
        """Without the white space that added tokens swallow."""
        for k, (piece, start, added) in enumerate(pieces):
            if added is None:
                before = self._added.get(pieces[k - 1][2] or "") if k else None
                after = self._added.get(pieces[k + 1][2] or "") if k + 1 < len(pieces) else None
                if before is not None and before.rstrip:
                    shorter = piece.lstrip()
                    start += len(piece) - len(shorter)
                    piece = shorter
                if after is not None and after.lstrip:
                    piece = piece.rstrip()
            if piece:
                yield piece, start, added

    def _pieces(self, text: str) -> Iterator[tuple[int, int]]:
        """Ids of a stretch without added tokens, and where in it each begins."""
        # SentencePiece drops or joins leading spaces unless something stands before them.
        guard = self._spec.unk_token if text.startswith((_SPACE, " ")) else ""
        coded = self._model.encode(guard + text, out_type="offset_mapping")
        skipped = self._unknown_pieces if guard else 0
        for i, (begin, _) in zip(coded["ids"][skipped:], coded["offsets"][skipped:], strict=True):
            yield int(i), max(begin - len(guard), 0)

    def _is_space(self, i: int) -> bool:
        return i not in self._words and self._model.id_to_piece(i) == _SPACE

    def decode(self, ids: Sequence[int], specials: bool = False) -> str:
        """As the slow tokenizer: specials left out, the other added tokens between spaces."""
        texts: list[str] = []
        run: list[int] = []
        for i in map(int, ids):
            if i in self.specials and not specials:
                continue
            if i in self._apart:
                texts += [self._text(run), self._words[i]]
                run = []
            else:
                run.append(i)
        return " ".join(text for text in [*texts, self._text(run)] if text)

    def _text(self, ids: list[int]) -> str:
        """A run between added tokens that stand apart; its first space is not part of the text."""
        text = ""
        plain: list[int] = []
        for i in ids:
            if i in self.specials:
                text += str(self._model.decode(plain)) + self._word(i)
                plain = []
            else:
                plain.append(i)
        text += str(self._model.decode(plain))
        opens = bool(ids) and ids[0] not in self.specials
        spaced = opens and self._model.id_to_piece(ids[0]).startswith(_SPACE)
        return text[1:] if spaced else text

    def _word(self, i: int) -> str:
        return self._words.get(i) or str(self._model.id_to_piece(i))

    def fast(self) -> Any:
        """The same as an object of the tokenizers library, as transformers converts such a tokenizer.

        Two rules have no form there: a text that opens with white space has one space less, and a stray space may
        stand before an added token that opens a text.
        """
        from tokenizers import AddedToken as Added, pre_tokenizers

        words = {
            one.id: Added(
                one.content,
                lstrip=one.lstrip,
                rstrip=one.rstrip,
                normalized=False,
                special=one.id in self.specials,
            )
            for one in self._added.values()
        }
        found = llama_bpe.with_added(self._data, words)
        found.normalizer = None
        found.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, "first", split=False)
        return found

    def save(self, folder: Path) -> str:
        (folder / "tokenizer.model").write_bytes(self._data)
        return "tokenizer.model"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_model"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._load(state["_data"])
