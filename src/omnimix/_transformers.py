"""Every place where omnimix leans on transformers beyond what its documentation promises.

A release of transformers may move any of this without a word. `tests/contracts/test_transformers_seams.py`
holds one test for each, so that the next move breaks one test, and its name says what moved. A test also
refuses imports from inside transformers anywhere else.

Nothing here is imported before it is used: the command line starts without transformers.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bar and warnings of transformers: what is wrong becomes an error of ours."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def tied_names(model: nn.Module) -> set[str]:
    """Names in a state dict that share another name's tensor, and that a file therefore leaves out."""
    return set(getattr(model, "all_tied_weights_keys", None) or {})


def recompute(model: nn.Module, on: bool) -> None:
    """Let a model of transformers compute its activations again in the backward pass, or no longer."""
    verb = "enable" if on else "disable"
    # The older name is deprecated in favour of one that transformers 5.23 has not got.
    names = (f"activation_checkpointing_{verb}", f"gradient_checkpointing_{verb}")
    switch: Any = next(getattr(model, name) for name in names if hasattr(model, name))
    switch(*([{"use_reentrant": False}] if on else []))


def restore_ids(tower: nn.Module) -> None:
    """Make transformers' tables of positions and types anew, which no state dict holds."""
    for module in tower.modules():
        positions = getattr(module, "position_ids", None)
        if isinstance(positions, Tensor):
            fresh = torch.arange(positions.shape[-1], device=positions.device)
            positions.copy_(fresh.expand_as(positions))
        types = getattr(module, "token_type_ids", None)
        if isinstance(types, Tensor):
            types.zero_()


def restore_statistics(norm: Any) -> None:
    """Make the running statistics of a batch norm anew, where none were loaded."""
    from transformers import initialization

    if norm.track_running_stats:
        initialization.zeros_(norm.running_mean)
        initialization.ones_(norm.running_var)
        initialization.zeros_(norm.num_batches_tracked)


def is_loaded(parameter: nn.Parameter) -> bool:
    """Whether `from_pretrained` filled a parameter; asked while the others are made anew."""
    return bool(getattr(parameter, "_is_hf_initialized", False))


def model_from(cls: Any, config: Any, tensors: Mapping[str, Any], **words: Any) -> Any:
    """`from_pretrained` of tensors that are at hand already.

    A tensor may be anything with `get_shape()` and `[...]` (a slice of a safetensors file has these too):
    it is then read when its turn comes, and of a weight that is cut over processes the own part alone.
    The model's `_init_weights` is called for what no tensor fills.
    """
    with quiet():
        return cls.from_pretrained(None, config=config, state_dict=tensors, **words)


def register_attention(
    name: str, attention: Callable[..., Any], unmasked: Callable[[], bool] = bool
) -> None:
    """Make an attention function known, with the masks of SDPA; calling it again changes nothing.

    Where `unmasked` answers yes, no mask is made. Keyword arguments that a language model does not know are handed on to it.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    def mask(*args: Any, **words: Any) -> Tensor | None:
        return None if unmasked() else sdpa_mask(*args, **words)

    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, mask)


def causal_lm_types() -> list[str]:
    """The `model_type` of every causal language model that transformers knows."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def model_types() -> list[str]:
    """The `model_type` of everything that `AutoModel` builds."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    return list(MODEL_MAPPING_NAMES)


def attentions(config: Any) -> tuple[bool, bool]:
    """Whether a causal language model hands everything on to flash attention, and whether it takes SDPA."""
    from transformers import AutoModelForCausalLM

    cls = AutoModelForCausalLM._model_mapping[type(config)]
    return cls._supports_flash_attn and cls._supports_attention_backend, cls._supports_sdpa


def causal_lm(config: Any, attention: str) -> Any:
    """A causal language model with fresh weights, on the current default device."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


def headed(model: Any, hidden: Tensor) -> Tensor:
    """Logits of what stands behind a causal language model's body: its own forward with the body passed over.

    Whatever it does there (head, scales, soft caps) is so its own code. `forms.headed` says which models can.
    """
    from transformers.modeling_outputs import BaseModelOutputWithPast

    class Passed(BaseModelOutputWithPast):  # type: ignore[misc]
        """What else a body may give (states of routers, attentions) is None here."""

        def __getattr__(self, name: str) -> None:
            if name.startswith("_"):
                raise AttributeError(name)

    body = model.base_model
    own = vars(body).pop("forward", None)  # where somebody has wrapped it already
    body.forward = lambda *_, **__: Passed(last_hidden_state=hidden)
    try:
        logits: Tensor = model(inputs_embeds=hidden, use_cache=False, return_dict=True).logits
    finally:
        del body.forward
        if own is not None:
            body.forward = own
    return logits


def loss_output(loss: Tensor) -> Any:
    """A causal language model's output that holds the loss alone."""
    from transformers.modeling_outputs import CausalLMOutputWithPast

    return CausalLMOutputWithPast(loss=loss)


def takes(model: Any, word: str) -> bool:
    """Whether a model's forward has this keyword argument."""
    return word in inspect.signature(model.forward).parameters


def sdpa(*tensors: Tensor | nn.Module | None, **words: Any) -> tuple[Tensor, None]:
    """The SDPA of transformers: module, query, key, value, mask; all of `[batch, heads, tokens, width]`."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    found: tuple[Tensor, None] = sdpa_attention_forward(*tensors, **words)
    return found


def needs(model: Any) -> list[str]:
    """The keyword arguments that a model's forward cannot do without, in their order."""
    given = inspect.signature(model.forward).parameters.values()
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in given if p.default is p.empty and p.kind in plain]


def cuts(model: Any) -> dict[str, str]:
    """The tensor-parallel plan of a model: names with `*` for the layer's number, and styles."""
    return dict(model.tp_plan or {})


def cut_words(size: int, plan: Mapping[str, str]) -> dict[str, Any]:
    """What `from_pretrained` is told to cut a model over `size` processes."""
    from transformers.distributed import DistributedConfig

    return {"distributed_config": DistributedConfig(tp_size=size, tp_plan=dict(plan))}


def mel_filters(
    frequencies: int, bins: int, lowest: float, highest: float, rate: int, kind: str | None
) -> np.ndarray:
    """Mel filters `[frequencies, bins]`: `slaney`, of equal area, or None, the plain ones of HTK."""
    from transformers.audio_utils import mel_filter_bank

    scale = "slaney" if kind == "slaney" else "htk"
    found = mel_filter_bank(frequencies, bins, lowest, highest, rate, norm=kind, mel_scale=scale)
    return np.asarray(found, dtype=np.float32)


def token_counts(tokens: list[int], tiles: list[int]) -> Any:
    """Tokens and tiles of pictures in the form that serving engines read (vLLM, through transformers)."""
    from transformers.processing_utils import MultiModalData

    return MultiModalData(num_image_tokens=tokens, num_image_patches=tiles)


def answers_in_pipelines(model_type: str, name: str) -> None:
    """Let pipelines know a registered class by its name, which they look up apart from its registration."""
    from transformers.models.auto import modeling_auto

    for table in ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM"):
        getattr(modeling_auto, f"MODEL_FOR_{table}_MAPPING_NAMES")[model_type] = name
