"""A model's language model alone, in the forms of other engines, which then take prompts as embeddings."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnimix import _transformers
from omnimix.disk import writing
from omnimix.errors import CheckpointError, OmnimixError
from omnimix.generate.assistant import Assistant

PROMPTS = (9, 4)
WRITTEN = 12


def write_folder(assistant: Assistant, out: Path) -> None:
    """A plain folder of the language model and its tokenizer, as transformers and vLLM open it, proven by greedy ids.

    Raises:
        OmnimixError: a head that transformers does not know; a folder that answers otherwise.
    """
    from transformers import AutoModelForCausalLM

    _check(assistant, out)
    language = assistant.model.language
    with writing(out), tempfile.TemporaryDirectory(dir=_near(out)) as near:
        draft = Path(near) / "model"
        with _transformers.quiet():
            language.save_pretrained(draft)
            assistant.processor.tokenizer.save_pretrained(draft)
            read = AutoModelForCausalLM.from_pretrained(draft, dtype=language.dtype).eval()
        _prove(assistant, read)
        draft.replace(out)


def write_gguf(assistant: Assistant, out: Path) -> None:
    """A GGUF file of the language model in float16, as llama.cpp opens it; prompts come as embeddings.

    It names no vocabulary: text is made tokens, and tokens text, by omnimix.

    Raises:
        OmnimixError: a missing package, or an architecture of another shape; a file that gives other logits.
    """
    if importlib.util.find_spec("gguf") is None:
        raise OmnimixError("the package gguf is missing", hint="pip install 'omnimix[gguf]'")
    _check(assistant, out)
    language = assistant.model.language
    config = language.config
    odd = _odd(language)
    if odd is not None:
        raise OmnimixError(
            f"{config.model_type} cannot be written as GGUF: {odd}",
            where="language",
            hint="llama and mistral can; export --vllm takes any",
        )
    with writing(out), tempfile.TemporaryDirectory(dir=_near(out)) as near:
        draft = Path(near) / "model.gguf"
        _write_gguf(language, draft)
        _compare_gguf(language, draft)
        shutil.move(draft, out)


def _check(assistant: Assistant, out: Path) -> None:
    if out.exists():
        raise OmnimixError("it is there already", where=str(out), hint="name another place")
    if getattr(assistant.model, "is_quantized", False) or assistant.process_group.size > 1:
        raise OmnimixError("a model that is held in parts or fewer bits cannot be exported")
    if assistant.processor.recipe.language.head is not None:
        raise OmnimixError(
            "the output head has a bias or rows without logits, which other engines do not know",
            where="language.head",
        )


def _near(out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.parent


def probes(language: Any) -> list[Tensor]:
    """Embeddings `[1, tokens, width]` as prompts bring them: of tokens, and between them of none."""
    chance = torch.Generator().manual_seed(0)
    table = language.get_input_embeddings()
    rows = table.weight.shape[0]
    found = []
    with torch.inference_mode():
        for count in PROMPTS:
            own = table(torch.randint(rows, (1, count), generator=chance))
            noise = torch.randn(own.shape, generator=chance) * table.weight.float().std()
            own[:, 1:3] = noise.to(own)[:, 1:3]
            found.append(own)
    return found


def greedy(language: Any, given: Tensor, count: int = WRITTEN) -> list[int]:
    """The likeliest tokens behind embeddings, by the model's own forward."""
    ids: list[int] = []
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(language(inputs_embeds=given, use_cache=False).logits[0, -1].argmax()))
            new = language.get_input_embeddings()(torch.tensor([ids[-1:]]))
            given = torch.cat([given, new], dim=1)
    return ids


def _prove(assistant: Assistant, read: Any) -> None:
    language = assistant.model.language.cpu()
    for given in probes(language):
        ours, theirs = greedy(language, given), greedy(read, given)
        if ours != theirs:
            raise CheckpointError(f"the folder answers {theirs} where the model answers {ours}")


def _odd(language: Any) -> str | None:
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


def _write_gguf(language: Any, file: Path) -> None:
    import gguf

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
        kind = np.float16 if weight.ndim > 1 else np.float32
        writer.add_tensor(name, weight.float().numpy().astype(kind))
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


def _compare_gguf(language: Any, file: Path) -> None:
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


FORMS: dict[str, Callable[[Assistant, Path], None]] = {"vllm": write_folder, "gguf": write_gguf}
