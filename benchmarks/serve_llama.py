"""llama.cpp alone, as its own users run it: prompts as embeddings in one batch, then a token of every answer at a time.

Run `python -m benchmarks.serve_llama FILE.gguf PROMPTS.npz TOKENS` for its memory in a process without torch. Threads are
as many as torch would take; all else is as llama.cpp sets it.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROWS = 2048
"""Tokens of one call."""


class Alone:
    """A GGUF file and room for so many texts.

    Args:
        room: tokens of all texts together.
    """

    def __init__(self, file: str, texts: int, room: int, threads: int) -> None:
        import llama_cpp

        self.cpp: Any = llama_cpp
        self._quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        words = llama_cpp.llama_model_default_params()
        self.model: Any = llama_cpp.llama_model_load_from_file(file.encode(), words)
        words = llama_cpp.llama_context_default_params()
        words.n_ctx, words.n_seq_max, words.kv_unified = room, texts, True
        words.n_batch = ROWS
        words.n_threads = words.n_threads_batch = threads
        self.context: Any = llama_cpp.llama_init_from_model(self.model, words)
        vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.size = (llama_cpp.llama_vocab_n_tokens(vocabulary),)
        width = llama_cpp.llama_model_n_embd(self.model)
        self.reading = llama_cpp.llama_batch_init(ROWS, width, 1)
        self.writing = llama_cpp.llama_batch_init(texts, 0, 1)

    def write(
        self, prompts: Sequence[Any], tokens: int
    ) -> tuple[list[list[int]], float, list[float]]:
        """Ids of each answer, seconds for all, and seconds to the first token of each."""
        memory = self.cpp.llama_get_memory(self.context)
        self.cpp.llama_memory_clear(memory, True)
        begin = time.perf_counter()
        rows = np.ascontiguousarray(np.concatenate(prompts), dtype=np.float32)
        places = [
            (i, k, k == len(one) - 1) for i, one in enumerate(prompts) for k in range(len(one))
        ]
        ids: list[list[int]] = [[] for _ in prompts]
        firsts = []
        for first in range(0, len(places), ROWS):
            part = places[first : first + ROWS]
            own = rows[first : first + ROWS]
            ctypes.memmove(self.reading.embd, own.ctypes.data, own.nbytes)
            for number, token in self._decode(self.reading, part):
                ids[number].append(token)
                firsts.append(time.perf_counter() - begin)
        for step in range(1, tokens):
            for i, own_ids in enumerate(ids):
                self.writing.token[i] = own_ids[-1]
            part = [(i, len(one) + step - 1, True) for i, one in enumerate(prompts)]
            for number, token in self._decode(self.writing, part):
                ids[number].append(token)
        return ids, time.perf_counter() - begin, firsts

    def _decode(self, batch: Any, places: Sequence[tuple[int, int, bool]]) -> list[tuple[int, int]]:
        batch.n_tokens = len(places)
        for i, (number, place, last) in enumerate(places):
            batch.pos[i], batch.n_seq_id[i], batch.logits[i] = place, 1, last
            batch.seq_id[i][0] = number
        if self.cpp.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama.cpp failed in a step")
        lasts = [(i, number) for i, (number, _, last) in enumerate(places) if last]
        found = []
        for i, number in lasts:
            logits = self.cpp.llama_get_logits_ith(self.context, i)
            found.append((number, int(np.ctypeslib.as_array(logits, self.size).argmax())))
        return found


if __name__ == "__main__":
    held = np.load(sys.argv[2])
    texts = [held[name] for name in held.files]
    most = sum(len(one) for one in texts) + len(texts) * int(sys.argv[3])
    cpp = Alone(sys.argv[1], len(texts), most, len(os.sched_getaffinity(0)))
    cpp.write(texts, int(sys.argv[3]))
    held_most = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    print(json.dumps({"peak": int(held_most) // 1024}))
