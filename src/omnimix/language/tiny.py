"""A tiny copy of a language model's configuration: every kind of layer, few of each, all sizes small.

What may be packed is decided by a model's kinds of layers, not by their sizes. So it is found by running its
tiny copy, in whose few tokens windows and chunks of attention already bite.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

VOCABULARY = 128
WINDOW = 4

_SIZES: tuple[tuple[str, int], ...] = (
    (r"\w*vocab_size\w*|ngram_vocab_size_base", VOCABULARY),
    (r"mamba_n_heads|n_mamba_heads", 8),
    (r"query_pre_attn_scalar", 16),
    (r"expand", 1),
    (r"attention_head_dim", 32),
    (r"(num_|\w+_)?attention_heads|n_heads?|num_heads|\w*n_heads|linear_num_heads|mamba_num_heads", 4),
    (r"linear_num_value_heads", 4),
    (r"\w*num_(key_value|kv)_heads|linear_num_key_heads|num_query_groups", 2),
    (r"qk_head_dim", 24),
    (r"qk_rope_head_dim|rotary_dim", 8),
    (r"\w*head_dim|d_head|kv_channels|dim_head|\w*headdim|mamba_d_head|attention_head_size", 16),
    (r"dim_model_base|\w*hidden_size\w*|d_model|n_embd|emb_dim|word_embed_proj_dim|\w*embedding_(size|dim)", 64),
    (r"lru_width|\w*embed_dim", 64),
    (r"mamba_d_ssm", 128),
    (r"\w*intermediate_size\w*|\w*ffn_\w*(dim|size)|d_ff|dim_ff|dff|d_inner|n_inner|feed_forward_size", 48),
    (r"\w*window_(size|len)|sliding_window\w*|local_attention|\w*chunk_size|index_topk", WINDOW),
    (r"num_(local_)?experts|(moe_)?n(um)?_(routed_)?experts|zero_expert_num", 4),
    (r"num_experts_per_tok(en)?|moe_topk|moe_k|top_k_experts", 2),
    (r"n_groups?|num_expert_group|topk_group|mamba_n_groups|o_groups", 1),
    (r"\w*(_rank|state_size|d_state)", 8),
    (r"index_block_size|block_size", 4),
    (r"\w*_period|interleave_moe_layer_step|\w*_interval", 2),
    (r"\w*_offset", 1),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|context_length", 64),
    (r"(num_)?(encoder_|decoder_)?layers", 2),
)  # fmt: skip
_LAYERS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers", "num_blocks")
_NONE_IS_WHOLE = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id")


def tiny_words(words: Mapping[str, Any]) -> dict[str, Any]:
    """The words of the tiny copy of a configuration that `to_dict` wrote."""
    named = next((name for name in _LAYERS if isinstance(words.get(name), int)), None)
    chosen = _layers(words, words[named]) if named else []
    done: dict[str, Any] = {}
    for name, value in words.items():
        if name == named:
            done[name] = len(chosen)
        elif named and _by_layer(value, words[named]):
            done[name] = [_size(name, value[i]) for i in chosen]
        elif isinstance(value, list) and named and re.search(r"(layers|idxs|layer_ids)$", name):
            done[name] = [k for k, i in enumerate(chosen) if i in value]
        elif name == "num_kv_shared_layers" and named and value:
            done[name] = sum(i >= words[named] - value for i in chosen)
        elif name == "attention_hidden_size" and words.get("hidden_size"):
            done[name] = 64 * (value // words["hidden_size"])
        elif name == "mrope_section":
            done[name] = [1] * len(value)
        elif isinstance(value, Mapping) and value and all(str(k).isdigit() for k in value):
            kept = {int(k): tiny_words(v) for k, v in value.items() if isinstance(v, Mapping)}
            done[name] = {f"{k:02d}": kept[i] for k, i in enumerate(chosen) if i in kept}
        elif isinstance(value, Mapping):
            done[name] = tiny_words(value)
        else:
            done[name] = _size(name, value)
    if words.get("qk_rope_head_dim") and words.get("head_dim") == words["qk_rope_head_dim"]:
        done["head_dim"] = done["qk_rope_head_dim"]
    heads, own = _heads(words)
    if heads is not None and heads == own:  # ordinary attention stays ordinary
        done["num_key_value_heads"] = next(
            done[n] for n in ("num_attention_heads", "n_heads", "n_head") if n in done
        )
    return done


def _heads(words: Mapping[str, Any]) -> tuple[Any, Any]:
    return words.get("num_attention_heads"), words.get("num_key_value_heads")


def _by_layer(value: Any, layers: int) -> bool:
    return isinstance(value, list) and len(value) == layers > 1


def _layers(words: Mapping[str, Any], count: int) -> list[int]:
    """The first and the last layer of each kind that the lists of the configuration tell apart."""
    lists = [value for value in words.values() if _by_layer(value, count)]
    kinds: dict[str, list[int]] = {}
    for i in range(count):
        kinds.setdefault(repr([each[i] for each in lists]), []).append(i)
    # The last of a kind may share the keys of the first.
    found = sorted({one for own in kinds.values() for one in (own[0], own[-1])})
    return found if len(kinds) > 1 else list(range(min(4, count)))


def _size(name: str, value: Any) -> Any:
    if isinstance(value, float) and re.fullmatch(r"attn_logit_softcap\w*", name):
        return 0.5
    if name.endswith("_token_id") and isinstance(value, int):
        return min(value, VOCABULARY - 1)
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    for pattern, size in _SIZES:
        if re.fullmatch(pattern, name):
            return min(size, value)
    return value
