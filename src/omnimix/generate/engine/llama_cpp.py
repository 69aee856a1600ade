"""llama.cpp in the engine: all texts in one batch of its sequences, by input embeddings, over a GGUF file of the language
model.

Keys and values are float16, llama.cpp's own choice: its attention over float32 takes a fifth more of a step's time. What all
of it rounds is measured against torch before a file is kept.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnimix.errors import OmnimixError
from omnimix.language import gguf, ragged

FILE = "model.gguf"
BATCH = 512
"""Tokens of one call."""
CELLS = 1024
"""Tokens for which there is room at first; llama.cpp wants room for a whole call."""
SEQUENCES = 64
"""Texts at once."""
ASIDE = SEQUENCES
"""A sequence beside those of texts, through which parts of them come and go."""
_WAY_OUT = "leave --backend out: torch is the default"


class _Text:
    """A text, which is one of llama.cpp's sequences."""

    def __init__(self, number: int, room: int) -> None:
        self.number = number
        self.room = room
        self.length = 0


class LlamaCpp:
    """Texts over a GGUF file.

    Args:
        file: of the language model.
        layout: of the torch model.
    """

    whole = False

    def __init__(self, file: Path, layout: ragged.CacheLayout) -> None:
        import llama_cpp

        self.cpp: Any = llama_cpp
        self._quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        words = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(str(file).encode(), words)
        if not self._model:
            raise OmnimixError("llama.cpp does not open the file", where=str(file))
        shapes = [one for pair in layout.layers.values() for one in pair]
        self.token_bytes = 2 * sum(heads * size for heads, size in shapes)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(
            llama_cpp.llama_model_get_vocab(self._model)
        )
        self._width = llama_cpp.llama_model_n_embd(self._model)
        self._batch = llama_cpp.llama_batch_init(BATCH, self._width, 1)
        self._rooms: dict[int, int] = {}
        self._left: list[int] = []
        self._cells = 0
        self._context: Any = None

    def open(self, room: int) -> _Text:
        self._forget()
        free = next((i for i in range(SEQUENCES) if i not in self._rooms), None)
        if free is None:
            raise OmnimixError(
                f"llama.cpp holds {SEQUENCES} texts at once", hint="lower --max-batch"
            )
        text = _Text(free, room)
        self._rooms[free] = room
        # Whoever forgets a text gives its sequence back, in any thread; the next call of this one clears it.
        weakref.finalize(text, self._left.append, free).atexit = False
        self._reserve(sum(self._rooms.values()))
        return text

    def run(self, texts: Sequence[_Text], embeddings: Sequence[Tensor]) -> Tensor:
        rows = torch.cat([one.float() for one in embeddings]).cpu().numpy()
        places = [
            (text.number, text.length + i, i == len(own) - 1)
            for text, own in zip(texts, embeddings, strict=True)
            for i in range(len(own))
        ]
        found = [
            logits
            for first in range(0, len(places), BATCH)
            for logits in self._pass(places[first : first + BATCH], rows[first : first + BATCH])
        ]
        for text, own in zip(texts, embeddings, strict=True):
            text.length += len(own)
        return torch.from_numpy(np.stack(found))

    def _pass(self, places: Sequence[tuple[int, int, bool]], rows: Any) -> list[Any]:
        """The logits that a part of a step's tokens gives: of a sequence, at a place, the last of a text or not."""
        cpp, batch = self.cpp, self._batch
        own = np.ascontiguousarray(rows)
        ctypes.memmove(batch.embd, own.ctypes.data, own.nbytes)
        batch.n_tokens = len(places)
        for i, (number, place, last) in enumerate(places):
            batch.pos[i], batch.n_seq_id[i], batch.logits[i] = place, 1, last
            batch.seq_id[i][0] = number
        if cpp.llama_decode(self._context, batch) != 0:
            raise OmnimixError("llama.cpp failed in a step", hint=_WAY_OUT)
        size = (self._vocabulary,)
        lasts = [i for i, (_, _, last) in enumerate(places) if last]
        numbers = [cpp.llama_get_logits_ith(self._context, i) for i in lasts]
        return [np.ctypeslib.as_array(one, size).copy() for one in numbers]

    def cut(self, text: _Text, start: int, end: int) -> list[Tensor]:
        """A copy in llama.cpp's own form, which holds the tokens' places as well."""
        memory = self.cpp.llama_get_memory(self._context)
        # What llama.cpp gives away is a whole sequence: these tokens are one for a moment.
        self.cpp.llama_memory_seq_cp(memory, text.number, ASIDE, start, end)
        piece = self._copied(self._context, ASIDE)
        self.cpp.llama_memory_seq_rm(memory, ASIDE, -1, -1)
        return [piece]

    def put(self, text: _Text, pieces: Sequence[Tensor]) -> None:
        for piece in pieces:
            # A sequence that takes something in forgets what it held, so it comes by way of another.
            if not self._takes(ASIDE, piece):
                # It wants its cells side by side, which those that texts left need not be.
                self._move(self._cells)
                self._take(ASIDE, piece)
            memory = self.cpp.llama_get_memory(self._context)
            end = self.cpp.llama_memory_seq_pos_max(memory, ASIDE) + 1
            self.cpp.llama_memory_seq_cp(memory, ASIDE, text.number, -1, -1)
            self.cpp.llama_memory_seq_rm(memory, ASIDE, -1, -1)
            text.length = end

    def _forget(self) -> None:
        while self._left:
            number = self._left.pop()
            del self._rooms[number]
            memory = self.cpp.llama_get_memory(self._context)
            self.cpp.llama_memory_seq_rm(memory, number, -1, -1)

    def _reserve(self, tokens: int) -> None:
        """Room for so many tokens; a context that is too small is doubled."""
        if tokens > self._cells:
            self._move(max(2 * self._cells, tokens, CELLS))

    def _move(self, cells: int) -> None:
        """Take a new context, which takes over what the texts hold, side by side."""
        cpp, before = self.cpp, self._context
        self._cells = cells
        words = cpp.llama_context_default_params()
        words.n_ctx, words.n_seq_max, words.kv_unified = self._cells, SEQUENCES + 1, True
        words.n_batch = words.n_ubatch = BATCH
        words.n_threads = words.n_threads_batch = torch.get_num_threads()
        words.type_k = words.type_v = cpp.GGML_TYPE_F16
        # It passes over what another text holds, where the plain way multiplies all with all.
        words.flash_attn_type = 1
        self._context = cpp.llama_init_from_model(self._model, words)
        if not self._context:
            raise OmnimixError(f"llama.cpp has no memory for {self._cells} tokens")
        if before is None:
            return
        for number in self._rooms:
            self._take(number, self._copied(before, number))
        cpp.llama_free(before)

    def _copied(self, context: Any, number: int) -> Tensor:
        """What a sequence holds."""
        held = torch.empty(self.cpp.llama_state_seq_get_size(context, number), dtype=torch.uint8)
        place = ctypes.cast(held.data_ptr(), ctypes.POINTER(ctypes.c_uint8))
        wrote = self.cpp.llama_state_seq_get_data(context, place, len(held), number)
        if wrote != len(held):
            raise OmnimixError("llama.cpp does not give away what a text holds", hint=_WAY_OUT)
        return held

    def _take(self, number: int, held: Tensor) -> None:
        if not self._takes(number, held):
            raise OmnimixError("llama.cpp does not take in what a text held", hint=_WAY_OUT)

    def _takes(self, number: int, held: Tensor) -> bool:
        """Let a sequence hold what was copied from another, and nothing else, if there is a place for it."""
        place = ctypes.cast(held.data_ptr(), ctypes.POINTER(ctypes.c_uint8))
        size = len(held)
        return bool(self.cpp.llama_state_seq_set_data(self._context, place, size, number))


def version() -> str:
    """Of what files depend on."""
    return metadata.version("gguf")


def drafts(
    model: Any, layout: ragged.CacheLayout, steps: Sequence[str], folder: Path
) -> Iterator[tuple[str, Callable[[], LlamaCpp]]]:
    """Files with weights in fewer and fewer bits, to be tried; the last stays in a folder.

    Raises:
        OmnimixError: a model of another shape than llama's.
    """
    why = "its head has a bias or rows of its own" if model.recipe.language.head else None
    if (why := why or gguf.odd(model.language)) is not None:
        raise OmnimixError(why)
    for step in steps:
        gguf.write(model.language, folder / FILE, step)
        yield step, lambda: opened(folder, layout)


def opened(folder: Path, layout: ragged.CacheLayout) -> LlamaCpp:
    """What `drafts` left there."""
    return LlamaCpp(folder / FILE, layout)
