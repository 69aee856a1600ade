"""Parts in the hub's layout, tiny and untrained, and a few rows: what docs/own_model.md is tried with.

Writes `parts/lm` (a language model with tokenizer and chat template), `parts/vit` (a tower of timm) and
`rows.json` (pictures and conversations in the form of LLaVA).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import omnimix  # noqa: F401  (first: it makes timm importable beside a torchvision of another build)

# isort: split
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from omnimix.compose import recipe as recipes

CHAT = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ 'Q: ' + message['content'] + '\n' }}{% else %}{{ 'A: ' + message['content'] + eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'A: ' }}{% endif %}"
)

torch.manual_seed(0)
for name in ("parts/lm", "parts/vit", "pictures"):
    Path(name).mkdir(parents=True, exist_ok=True)
shutil.copy(recipes.FOLDER / "nano.tokenizer.json", "parts/lm/tokenizer.json")
tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "chat_template": CHAT}
Path("parts/lm/tokenizer_config.json").write_text(json.dumps(tokens))
LlamaForCausalLM(
    LlamaConfig(
        vocab_size=712,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=1,
        eos_token_id=2,
    )
).save_pretrained("parts/lm")

sizes = {"embed_dim": 48, "depth": 2, "num_heads": 3}
tower = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0, **sizes)
save_file(tower.state_dict(), "parts/vit/model.safetensors")
pictures = {"input_size": [3, 64, 64], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
config = {"architecture": "vit_tiny_patch16_224", "model_args": sizes, "pretrained_cfg": pictures}
Path("parts/vit/config.json").write_text(json.dumps(config))

rows = []
for i, colour in enumerate(["red", "green", "blue", "white"]):
    Image.new("RGB", (64, 48), colour).save(f"pictures/{colour}.png")
    asked = {"from": "human", "value": "<image>\nWhich colour is it?"}
    talk = [asked, {"from": "gpt", "value": f"It is {colour}."}]
    rows.append({"id": i, "image": f"pictures/{colour}.png", "conversations": talk})
Path("rows.json").write_text(json.dumps(rows))
