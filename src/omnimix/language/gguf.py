"""A language model as a GGUF file, which llama.cpp opens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnimix import _transformers
from omnimix.errors import OmnimixError

KINDS = {"16": "F16", "int8": "Q8_0", "int4": "Q4_0"}
"""How matrices are held, in GGUF's words."""


def odd(language: Any) -> str | None:
    """What llama.cpp's `llama` would run otherwise."""
    config = language.config
    if config.model_type not in ("llama", "mistral"):
        return "its layers are of another kind than llama's"
    if getattr(config, "sliding_window", None):
        return "it has a sliding window"
    if (config.rope_parameters or {}).get("rope_type", "default") != "default":
        return "its positions are scaled"
    if any(name.endswith("bias") for name in language.state_dict()):
        return "its layers have biases"
    return None


def _permuted(weight: Tensor, heads: int) -> Tensor:
    """Rows of queries or keys in the order in which llama.cpp turns them: pairs beside each other."""
    halves = weight.view(heads, 2, -1, weight.shape[1])
    return halves.transpose(1, 2).reshape(weight.shape)


def write(language: Any, file: Path, weights: str = "16") -> None:
    """A file of a language model without a vocabulary.

    Args:
        weights: a word of `KINDS`.

    Raises:
        OmnimixError: rows that do not come to whole blocks of these weights, or a name that GGUF lacks.
    """
    import gguf
    from gguf.quants import quantize

    config = language.config
    width = config.head_dim or config.hidden_size // config.num_attention_heads
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    for name, weight in _named(language):
        kind = gguf.GGMLQuantizationType["F32" if weight.ndim == 1 else KINDS[weights]]
        if weight.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            raise OmnimixError(
                f"{name} has rows of {weight.shape[-1]}, which are no whole blocks of {kind.name}",
                where="language",
                hint="take --weights 16",
            )
        writer.add_tensor(name, quantize(weight.float().numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _named(language: Any) -> Iterator[tuple[str, Tensor]]:
    """Weights by llama.cpp's names."""
    import gguf

    config = language.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    tied = _transformers.tied_names(language)
    for name, weight in language.state_dict().items():
        if name in tied:
            continue
        theirs = names.get_name(name, (".weight",))
        if theirs is None:
            raise OmnimixError(f"GGUF has no name for {name}", where="language")
        if name.endswith("q_proj.weight"):
            weight = _permuted(weight, config.num_attention_heads)
        elif name.endswith("k_proj.weight"):
            weight = _permuted(weight, config.num_key_value_heads)
        yield theirs, weight.detach().cpu()


def compare(language: Any, file: Path) -> None:
    """Read a file again and compare every weight."""
    import gguf

    stored = {one.name: one.data for one in gguf.GGUFReader(file).tensors}
    for name, weight in _named(language):
        found = torch.from_numpy(np.array(stored.pop(name), dtype=np.float32))
        largest = float(weight.abs().max())
        apart = float((found - weight.float()).abs().max())
        if not apart <= 1e-3 * largest:
            raise OmnimixError(
                f"{name} does not fit into float16 ({apart:.1e} away, of {largest:.1e})",
                hint="export --vllm keeps the weights as they are",
            )
