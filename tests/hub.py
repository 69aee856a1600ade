"""Pretrained parts as they lie on the hub, tiny and random: a language model, towers, each in a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from omnimix.compose import recipe as recipes

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are kind.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def language(folder: Path, shards: bool = False, **words: Any) -> Path:
    """A llama of two layers with a tokenizer, special tokens and a chat template that has a system text."""
    from tokenizers import AddedToken, Tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True)
    fast = Tokenizer.from_file(str(recipes.FOLDER / "nano.tokenizer.json"))
    fast.add_special_tokens(
        [AddedToken(token, normalized=False) for token in ("<|im_start|>", "<|im_end|>")]
    )
    fast.save(str(folder / "tokenizer.json"))
    told = {
        "bos_token": "<|im_start|>",
        "eos_token": {"__type": "AddedToken", "content": "<|im_end|>"},
        "pad_token": "<|im_end|>",
        "chat_template": CHATML,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    config = LlamaConfig(
        **{**sizes, "num_attention_heads": 2, "num_key_value_heads": 1, **words},
        vocab_size=fast.get_vocab_size(),
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    torch.manual_seed(1)
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="100KB" if shards else "5GB")
    return folder


def timm_tower(folder: Path, name: str = "vit_tiny_patch16_224", **args: Any) -> Path:
    """A model of timm of two blocks as timm pushes it, with its classifier."""
    import timm

    folder.mkdir(parents=True)
    args = args or {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 64}
    torch.manual_seed(2)
    model = timm.create_model(name, num_classes=7, **args)
    save_file(
        {k: v.contiguous() + 0.01 for k, v in model.state_dict().items()},
        folder / "model.safetensors",
    )
    side = args.get("img_size", 224)
    told = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, side, side]}
    shape = {k: v for k, v in args.items() if k != "img_size"}
    config = {"architecture": name, "num_classes": 7, "pretrained_cfg": told, "model_args": shape}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def clip(folder: Path) -> Path:
    """A whole CLIP, of which a tower is one half."""
    from transformers import CLIPConfig, CLIPModel

    tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    tiny |= {"num_attention_heads": 2}
    torch.manual_seed(3)
    model = CLIPModel(
        CLIPConfig(
            text_config={**tiny, "vocab_size": 50},
            vision_config={**tiny, "image_size": 32, "patch_size": 8},
        )
    )
    model.save_pretrained(folder)
    told = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2]}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    return folder


def whisper(folder: Path) -> Path:
    """A whole Whisper with its feature extractor."""
    from transformers import WhisperConfig, WhisperModel

    config = WhisperConfig(
        vocab_size=60,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_mel_bins=16,
        max_source_positions=50,
        decoder_start_token_id=1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    torch.manual_seed(4)
    WhisperModel(config).save_pretrained(folder)
    told = {"feature_size": 16, "sampling_rate": 16000, "hop_length": 160, "n_fft": 400}
    told |= {"chunk_length": 1}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    return folder


def as_bin(folder: Path) -> Path:
    """The same folder with its weights as an older file of torch."""
    from safetensors.torch import load_file

    older = folder.with_name(f"{folder.name}-bin")
    shutil.copytree(folder, older)
    torch.save(load_file(older / "model.safetensors"), older / "pytorch_model.bin")
    (older / "model.safetensors").unlink()
    return older
