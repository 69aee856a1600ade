"""llama.cpp over `omnimix export --gguf`: greedy ids from our embeddings beside torch's.

Run `python -m tests.peers.llama_cpp_engine`. The file holds float16, so that near ties may fall otherwise.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tests.peers import engines


def write(file: Path, given: list[Tensor], count: int) -> list[list[int]]:
    """By llama.cpp's plain interface, without flash attention."""
    import llama_cpp as cpp

    cpp.llama_backend_init()
    model = cpp.llama_model_load_from_file(str(file).encode(), cpp.llama_model_default_params())
    assert model, "llama.cpp does not open the file"
    return [_one(cpp, model, one.float().numpy(), count) for one in given]


def _one(cpp: Any, model: Any, prompt: np.ndarray, count: int) -> list[int]:
    words = cpp.llama_context_default_params()
    words.n_ctx, words.n_batch, words.n_ubatch = 256, 256, 256
    if hasattr(words, "flash_attn_type"):
        words.flash_attn_type = 0
    context = cpp.llama_init_from_model(model, words)
    vocabulary = cpp.llama_vocab_n_tokens(cpp.llama_model_get_vocab(model))
    ids: list[int] = []
    batch = cpp.llama_batch_init(len(prompt), prompt.shape[1], 1)
    ctypes.memmove(batch.embd, np.ascontiguousarray(prompt).ctypes.data, prompt.nbytes)
    batch.n_tokens = len(prompt)
    for place in range(len(prompt)):
        batch.pos[place], batch.n_seq_id[place] = place, 1
        batch.seq_id[place][0] = 0
        batch.logits[place] = place == len(prompt) - 1
    assert cpp.llama_decode(context, batch) == 0
    for _ in range(count):
        logits = np.ctypeslib.as_array(cpp.llama_get_logits_ith(context, -1), (vocabulary,))
        ids.append(int(logits.argmax()))
        token = (ctypes.c_int32 * 1)(ids[-1])
        assert cpp.llama_decode(context, cpp.llama_batch_get_one(token, 1)) == 0
    cpp.llama_free(context)
    return ids


if __name__ == "__main__":
    engines.look("llama_cpp", "llama-cpp-python")
    engines.compare("gguf", write)
