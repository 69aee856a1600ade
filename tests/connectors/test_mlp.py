"""Connectors without attention: keys of released checkpoints, shapes, values."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors.torch import load_file

from omnimix.connectors.base import ConnectorSpec
from omnimix.connectors.mlp import FusedMlp, Linear, LinearNorm, Mlp, TokenMlp
from omnimix.connectors.perceiver import Perceiver
from omnimix.registry import CONNECTORS
from tests.cases import case_path, golden


@pytest.mark.parametrize(
    ("spec", "layers"),
    [
        (Linear(), {"0": (6, 4)}),
        (Mlp(), {"0": (6, 4), "2": (6, 6)}),
        (Mlp(depth=1), {"0": (6, 4)}),
        (Mlp(depth=3), {"0": (6, 4), "2": (6, 6), "4": (6, 6)}),
        (FusedMlp(), {"0": (16, 4), "2": (6, 16), "4": (6, 6)}),
        (LinearNorm(), {"0": (6, 4), "1": (6,)}),
        (TokenMlp(tokens=1), {"mlps.0.0": (6, 4), "mlps.0.2": (6, 6)}),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_keys_and_shapes(spec: ConnectorSpec, layers: dict[str, tuple[int, ...]]) -> None:
    module = spec.build(5, 4, 6)
    state = module.state_dict()
    assert {k: tuple(v.shape) for k, v in state.items() if k.endswith("weight")} == {
        f"{name}.weight": shape for name, shape in layers.items()
    }
    assert {k for k in state if k.endswith("bias")} == {f"{name}.bias" for name in layers}
    out = module(torch.rand(3, 5, 4), torch.ones(3, 5, dtype=torch.bool))
    assert out.shape == (3, module.tokens_out, 6)
    assert type(spec).model_validate(spec.dump()) == spec


@pytest.mark.parametrize("kind", list(CONNECTORS))
def test_every_connector_says_how_many_tokens_it_makes(kind: str) -> None:
    words = {"token_mlp": {"tokens": 3}, "perceiver": {"latents": 4, "depth": 1}}.get(kind, {})
    module = CONNECTORS.load(kind)(**words).build(2, 8, 6)
    assert module(torch.rand(1, 2, 8)).shape == (1, module.tokens_out, 6)


def test_mlp_uses_the_exact_gelu() -> None:
    module = Mlp().build(1, 4, 6)
    state = module.state_dict()
    x = torch.randn(1, 1, 4)
    hidden = F.gelu(F.linear(x, state["0.weight"], state["0.bias"]), approximate="none")
    assert torch.equal(module(x), F.linear(hidden, state["2.weight"], state["2.bias"]))


def test_token_mlp_orders_tokens() -> None:
    module = TokenMlp(tokens=3).build(1, 4, 6)
    x = torch.randn(2, 1, 4)
    out = module(x)
    for token in range(3):
        part = module.get_submodule(f"mlps.{token}")(x)
        assert torch.equal(out[:, token : token + 1], part)


@pytest.mark.parametrize(
    ("file", "spec"),
    [
        ("clip_mlp_vicuna/expected_train_align", Mlp()),
        ("dinosiglip_gelu/expected_train_finetune", FusedMlp()),
    ],
)
def test_prismatic_start_weights_come_from_the_seed(file: str, spec: ConnectorSpec) -> None:
    expected = load_file(case_path(f"prismatic/{file}.safetensors"))
    prefix = "init/projector.projector."
    start = {k.removeprefix(prefix): v for k, v in expected.items() if k.startswith(prefix)}
    last = max(start)
    torch.manual_seed(start["0.weight"].shape[1])
    state = spec.build(1, start["0.weight"].shape[1], start[last].shape[0]).state_dict()
    assert state.keys() == start.keys()
    assert all(torch.equal(state[key], start[key]) for key in start)


@pytest.mark.parametrize("case", ["vision_lora", "audio_document_mix"])
def test_multi_token_projection(case: str) -> None:
    folder, facts, expected = golden(f"multi_token/{case}")
    state = torch.load(folder / "checkpoint/non_lora_trainables.bin", weights_only=True)
    for modality in facts["modalities"]:
        name = modality["name"]
        prefix = f"base_model.model.model.{name}_lmm_projector."
        weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        features = expected[f"req0.{name}.features"]
        wanted = expected[f"req0.{name}.projected"]
        single = any(key.startswith("mlps.") for key in weights)
        spec = TokenMlp(tokens=wanted.shape[1]) if single else Mlp()
        module = spec.build(features.shape[1], features.shape[2], wanted.shape[2])
        module.load_state_dict({k: v.float() for k, v in weights.items()})
        torch.testing.assert_close(module(features), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("words", [{"depth": 0}, {"dept": 2}])
def test_wrong_words(words: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Mlp.model_validate(words)
    with pytest.raises(ValidationError):
        Perceiver.model_validate({"latents": 0})
