"""Tokenizers behind one face: text to ids with the place where each token starts, and back."""

from __future__ import annotations

import abc
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from omnimix.config import Spec
from omnimix.errors import RecipeError
from omnimix.hub import is_inside
from omnimix.language import llama_bpe

Span: TypeAlias = tuple[int, int]

ROOT = Path("/")
"""Among the folders that a tokenizer is looked for in, it allows paths that lead out of the others."""


@runtime_checkable
class Tokenizer(Protocol):
    """What weave and generation need to know of a tokenizer."""

    bos: int | None
    eos: int | None
    pad: int
    size: int
    specials: frozenset[int]

    def encode(
        self, text: str, follows: bool = False, typed: Sequence[Span] = ()
    ) -> tuple[list[int], list[int]]:
        """Ids without specials added, and for each the index of its first character in `text`.

        Args:
            follows: whether earlier text or an item stands before it; some tokenizers treat the very
                beginning of a text differently.
            typed: stretches of `text` (from, to) in which the name of a special token is mere text.
        """
        ...

    def decode(self, ids: Sequence[int], specials: bool = False) -> str:
        """Text of the ids; special tokens are left out unless asked for."""
        ...

    def save(self, folder: Path) -> str:
        """Write the tokenizer's file(s) into a folder; returns the path a recipe should name."""
        ...


def end_tokens(tokenizer: Tokenizer, stops: Sequence[str]) -> tuple[int, ...]:
    """Tokens that end an answer: the end token, and stop strings that are a single token."""
    ends = set() if tokenizer.eos is None else {tokenizer.eos}
    ends |= {i for i in tokenizer.specials if tokenizer.decode([i], specials=True) in stops}
    for stop in stops:
        ids, _ = tokenizer.encode(stop, follows=True)
        if len(ids) == 1 and tokenizer.decode(ids, specials=True) == stop:
            ends.add(ids[0])
    return tuple(sorted(ends))


class TokenizerSpec(Spec):
    """Words of a tokenizer in a recipe; `path` is looked up beside the recipe or in the model folder.

    Attributes:
        path: a file, or a folder that holds it; looked up beside the recipe or in the model folder.
    """

    kind: str
    path: str
    saved_as: ClassVar[str] = "tokenizer.json"
    """The name of the file that `Tokenizer.save` writes."""

    @abc.abstractmethod
    def load(self, folders: Sequence[Path]) -> Tokenizer: ...

    def find(self, folders: Sequence[Path]) -> Path:
        """The first existing place of `path`.

        Args:
            folders: where to look; only where the root is among them may the path lead out of the others.

        Raises:
            RecipeError: it is nowhere, or leads out of the folders.
        """
        for place in self._places(folders):
            if place.exists():
                return place
        looked = ", ".join(str(folder) for folder in folders if folder != ROOT) or "nowhere"
        raise RecipeError(
            f"the tokenizer {self.path!r} was not found (looked in {looked})",
            where="tokenizer.path",
            hint="put the file beside the recipe or name it by its full path",
        )

    def _places(self, folders: Sequence[Path]) -> list[Path]:
        if ROOT not in folders and not is_inside(self.path):
            raise RecipeError(
                f"the tokenizer {self.path!r} does not lie in the model's folder",
                where="tokenizer.path",
                hint="put the file beside the model's recipe.yaml and name it as it is called there",
            )
        absolute = Path(self.path).is_absolute()
        return [folder / self.path for folder in folders if folder != ROOT or absolute]


class FastTokenizer(TokenizerSpec):
    """A `tokenizer.json` of the tokenizers library, or a folder that holds one.

    Where only a SentencePiece `tokenizer.model` lies there (Llama, Vicuna), it is turned into one.

    Attributes:
        bos_token, eos_token, pad_token: the tokens that begin, end and fill a sequence; None where there is none.
        extra_special_tokens: special tokens beyond the file's own, in order; one that it has already is left alone.
        prefix: `every` puts "▁" before every stretch between special tokens, as transformers 4 did with
            Llama's tokenizers; `file` does what the file says.
        clean_up_tokenization_spaces: take the space before punctuation and contractions out of decoded text, as transformers did
            where a tokenizer's configuration asks for it (Phi-2).
    """

    kind: Literal["fast"] = "fast"
    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None
    extra_special_tokens: tuple[str, ...] = ()
    prefix: Literal["file", "every"] = "file"
    clean_up_tokenization_spaces: bool = False

    def load(self, folders: Sequence[Path]) -> Tokenizer:
        return _Fast(self, self.find(folders))

    def find(self, folders: Sequence[Path]) -> Path:
        """The first existing place of `path`, else of a `tokenizer.model` in its stead."""
        if Path(self.path).name == "tokenizer.json":
            for place in self._places(folders):
                model = place.with_suffix(".model")
                if model.is_file() and not place.exists():
                    return model
        return super().find(folders)


_UNTIDY = (
    *((f" {mark}", mark) for mark in (".", "?", "!", ",")),
    (" ' ", "'"),
    *((f" {mark}", mark) for mark in ("n't", "'m", "'s", "'ve", "'re")),
)
"""What is replaced in tidy text, in this order."""


class _Fast:
    def __init__(self, spec: FastTokenizer, path: Path) -> None:
        from tokenizers import AddedToken, Tokenizer as Fast

        file = path / "tokenizer.json" if path.is_dir() else path
        if file.suffix == ".model":
            self._fast = llama_bpe.from_sentencepiece(file)
        else:
            try:
                self._fast = Fast.from_file(str(file))
            except Exception as error:  # the library raises bare Exception
                raise RecipeError(f"not a tokenizer file ({error})", where=str(file)) from None
        self._file = file
        self.tidy = spec.clean_up_tokenization_spaces
        if spec.prefix == "every":
            llama_bpe.prefix_every_piece(self._fast)
        new = [word for word in spec.extra_special_tokens if self._fast.token_to_id(word) is None]
        self._fast.add_special_tokens([AddedToken(word, normalized=False) for word in new])
        self.size = self._fast.get_vocab_size()
        self.bos, self.eos = (self._id(word) for word in (spec.bos_token, spec.eos_token))
        pad = self._id(spec.pad_token)
        self.pad = pad if pad is not None else self.eos or 0
        added = self._fast.get_added_tokens_decoder()
        self.specials = frozenset(i for i, token in added.items() if token.special)
        self._names = {token.content: i for i, token in added.items() if token.special}
        # Tokens that swallow the white space around them do so wherever they stand.
        self._pattern = finder(
            {
                t.content: (r"\s*" if t.lstrip else "", r"\s*" if t.rstrip else "")
                for t in added.values()
                if t.special
            }
        )

    def _id(self, word: str | None) -> int | None:
        if word is None:
            return None
        found: int | None = self._fast.token_to_id(word)
        if found is None:
            raise RecipeError(f"the tokenizer has no token {word!r}", where=str(self._file))
        return found

    def encode(
        self, text: str, follows: bool = False, typed: Sequence[Span] = ()
    ) -> tuple[list[int], list[int]]:
        if not _touches(text, self._pattern, typed):
            coded = self._fast.encode(text, add_special_tokens=False)
            return list(coded.ids), [start for start, _ in coded.offsets]
        ids: list[int] = []
        starts: list[int] = []
        self._fast.encode_special_tokens = True
        try:
            for piece, start, special in cut(text, self._pattern, typed):
                if special is not None:
                    ids.append(self._names[special])
                    starts.append(start)
                    continue
                coded = self._fast.encode(piece, add_special_tokens=False)
                ids += coded.ids
                starts += [start + begin for begin, _ in coded.offsets]
        finally:
            self._fast.encode_special_tokens = False
        return ids, starts

    def decode(self, ids: Sequence[int], specials: bool = False) -> str:
        text = str(self._fast.decode(list(ids), skip_special_tokens=not specials))
        if self.tidy:
            for written, meant in _UNTIDY:
                text = text.replace(written, meant)
        return text

    def fast(self) -> Any:
        """The same as an object of the tokenizers library (see `omnimix.language.fast`)."""
        return type(self._fast).from_str(self._fast.to_str())

    def save(self, folder: Path) -> str:
        self._fast.save(str(folder / "tokenizer.json"))
        return "tokenizer.json"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fast": self._fast.to_str()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        from tokenizers import Tokenizer as Fast

        self.__dict__.update(state)
        self._fast = Fast.from_str(state["_fast"])


class SentencePieceTokenizer(TokenizerSpec):
    """A SentencePiece `tokenizer.model` with its own control tokens (Llama, Mistral).

    Attributes:
        extra_special_tokens: tokens beyond the model's vocabulary, in order; they are cut out of the text first.
        pad_token: the token that fills; None takes the model's unknown token.
    """

    kind: Literal["sentencepiece"] = "sentencepiece"
    saved_as: ClassVar[str] = "tokenizer.model"
    extra_special_tokens: tuple[str, ...] = ()
    pad_token: str | None = None

    def load(self, folders: Sequence[Path]) -> Tokenizer:
        return _SentencePiece(self, self.find(folders))


class _SentencePiece:
    def __init__(self, spec: SentencePieceTokenizer, path: Path) -> None:
        from sentencepiece import SentencePieceProcessor

        self._file = path / "tokenizer.model" if path.is_dir() else path
        try:
            self._model = SentencePieceProcessor(model_file=str(self._file))
        except (OSError, RuntimeError) as error:
            raise RecipeError(f"not a SentencePiece model ({error})", where=str(path)) from None
        base = self._model.vocab_size()
        self._added = {word: base + i for i, word in enumerate(spec.extra_special_tokens)}
        self._words = {i: word for word, i in self._added.items()}
        self._pattern = finder(dict.fromkeys(self._added, ("", "")))
        self.size = base + len(self._added)
        self.bos = _known(self._model.bos_id())
        self.eos = _known(self._model.eos_id())
        unknown = self._model.unk_id()
        self.pad = self._added[spec.pad_token] if spec.pad_token else unknown
        control = (i for i in (self.bos, self.eos, unknown) if i is not None)
        self.specials = frozenset([*control, *self._added.values()])

    def encode(
        self, text: str, follows: bool = False, typed: Sequence[Span] = ()
    ) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        starts: list[int] = []
        for piece, start, special in cut(text, self._pattern, typed):
            if special is not None:
                ids.append(self._added[special])
                starts.append(start)
                continue
            coded = self._model.encode(piece, out_type="offset_mapping")
            ids += coded["ids"]
            starts += [start + begin for begin, _ in coded["offsets"]]
        return ids, starts

    def decode(self, ids: Sequence[int], specials: bool = False) -> str:
        text: list[str] = []
        run: list[int] = []
        for i in ids:
            if i in self._words:
                text.append(self._model.decode(run))
                run = []
                if specials:
                    text.append(self._words[i])
            else:
                run.append(int(i))
        return "".join([*text, self._model.decode(run)])

    def fast(self) -> Any:
        """As of `_Fast`; SentencePiece too puts its space before every stretch between special tokens."""
        from tokenizers import AddedToken

        words = {
            i: AddedToken(word, normalized=False, special=True) for i, word in self._words.items()
        }
        return llama_bpe.with_added(self._file, words)

    def save(self, folder: Path) -> str:
        (folder / "tokenizer.model").write_bytes(self._file.read_bytes())
        return "tokenizer.model"


def _known(i: int) -> int | None:
    return i if i >= 0 else None


def finder(words: Mapping[str, tuple[str, str]]) -> re.Pattern[str] | None:
    """Finds any of the words, the longest first, each with what may stand before and after it."""
    if not words:
        return None
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile(
        "|".join(f"{words[word][0]}({re.escape(word)}){words[word][1]}" for word in longest_first)
    )


def _touches(text: str, pattern: re.Pattern[str] | None, typed: Sequence[Span]) -> bool:
    """Whether a special token's name reaches into a typed stretch."""
    if pattern is None or not typed:
        return False
    return any(_inside(match, typed) for match in _matches(text, pattern))


def _matches(text: str, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
    """All matches, those that overlap included."""
    at = 0
    while match := pattern.search(text, at):
        yield match
        at = match.start(match.lastindex or 0) + 1


def _inside(match: re.Match[str], typed: Sequence[Span]) -> bool:
    """Whether the name (without the white space around it) has a character in a typed stretch."""
    begin, end = match.span(match.lastindex or 0)
    return any(begin < to and start < end for start, to in typed)


def cut(
    text: str, pattern: re.Pattern[str] | None, typed: Sequence[Span] = ()
) -> list[tuple[str, int, str | None]]:
    """Pieces of the text with their starts; special tokens stand alone, named in the third place."""
    pieces: list[tuple[str, int, str | None]] = []
    last = 0
    for match in _matches(text, pattern) if pattern is not None else ():
        name = match[match.lastindex or 0]
        start = max(match.start(), last)
        if match.start(match.lastindex or 0) < last or _inside(match, typed):
            continue
        if start > last:
            pieces.append((text[last:start], last, None))
        pieces.append((text[start : match.end()], start, name))
        last = match.end()
    if last < len(text):
        pieces.append((text[last:], last, None))
    return pieces
