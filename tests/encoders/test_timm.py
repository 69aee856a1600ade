"""timm trunks: what an encoder says about its features holds for every kind of model."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from omnimix.encoders.base import Features
from omnimix.encoders.timm import TimmEncoder
from omnimix.errors import RecipeError


def built(device: str, **words: Any) -> Any:
    with torch.device(device):
        return TimmEncoder(**words).build().eval()


# Sizes other than the model's own, by architecture: rows of tokens with and without class tokens and
# registers, maps with channels first and last, models that take a size and models that take any.
MODELS: list[tuple[str, int, Features]] = [
    ("vit_tiny_patch16_224", 96, Features(37, 192, (6, 6), 1)),
    ("vit_small_patch14_reg4_dinov2", 70, Features(30, 384, (5, 5), 5)),
    ("vit_small_patch16_dinov3", 96, Features(41, 384, (6, 6), 5)),
    ("deit_tiny_patch16_224", 96, Features(37, 192, (6, 6), 1)),
    ("deit_tiny_distilled_patch16_224", 96, Features(38, 192, (6, 6), 2)),
    ("beit_base_patch16_224", 96, Features(37, 768, (6, 6), 1)),
    ("eva02_tiny_patch14_224", 84, Features(37, 192, (6, 6), 1)),
    ("cait_xxs24_224", 96, Features(37, 192, (6, 6), 1)),
    ("volo_d1_224", 96, Features(37, 384, (6, 6), 1)),
    ("mixer_s16_224", 96, Features(36, 512, (6, 6))),
    ("samvit_base_patch16", 96, Features(36, 256, (6, 6))),
    ("swin_tiny_patch4_window7_224", 96, Features(9, 768, (3, 3))),
    ("swinv2_tiny_window8_256", 128, Features(16, 768, (4, 4))),
    ("sequencer2d_s", 112, Features(64, 384, (8, 8))),
    ("maxvit_tiny_tf_224", 128, Features(16, 512, (4, 4))),
    ("mvitv2_tiny", 96, Features(9, 768, (3, 3))),
    ("levit_128", 128, Features(4, 384, (2, 2))),
    ("resnet18", 100, Features(16, 512, (4, 4))),
    ("convnext_atto", 96, Features(9, 320, (3, 3))),
    ("convmixer_768_32", 70, Features(100, 768, (10, 10))),
    ("efficientnet_b0", 96, Features(9, 1280, (3, 3))),
    ("efficientvit_b0", 96, Features(9, 128, (3, 3))),
    ("inception_v3", 192, Features(16, 2048, (4, 4))),
    ("mambaout_femto", 96, Features(9, 288, (3, 3))),
]


@pytest.mark.parametrize(("model", "size", "wanted"), MODELS, ids=[row[0] for row in MODELS])
def test_sizes_are_those_of_the_features(model: str, size: int, wanted: Features) -> None:
    encoder = built("meta", model=model, img_size=size)
    assert encoder.features == wanted
    found = encoder(torch.zeros(2, 3, size, size, device="meta"))
    assert found.shape == (2, wanted.tokens, wanted.width)


@pytest.mark.parametrize("model", ["swin_tiny_patch4_window7_224", "resnet18"])
def test_maps_are_read_row_by_row(model: str) -> None:
    """With channels first or last, a token is one place of the map."""
    encoder = built("cpu", model=model, img_size=64)
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        whole = encoder.trunk.forward_features(pixels)
        found = encoder(pixels)
    place = whole[0, 0, 1] if model.startswith("swin") else whole[0, :, 0, 1]
    assert torch.equal(found[0, 1], place)


def test_weights_are_those_that_timm_draws() -> None:
    """Looking at the sizes first draws no random number."""
    torch.manual_seed(3)
    encoder = built("cpu", model="vit_tiny_patch16_224", img_size=64)
    torch.manual_seed(3)
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64, global_pool="")
    other = plain.state_dict()
    assert all(
        torch.equal(value, other[name]) for name, value in encoder.trunk.state_dict().items()
    )
    assert not any(parameter.is_meta for parameter in encoder.parameters())


def test_a_transformer_without_class_token_pools_nothing() -> None:
    """timm's own default is to pool the class token."""
    encoder = built("meta", model="vit_tiny_patch16_224", args={"class_token": False})
    assert encoder.features == Features(196, 192, (14, 14))


def test_the_last_norm_of_a_pooling_transformer_is_kept() -> None:
    """eva02 and beit pool, then normalise; without pooling the norm belongs to every token."""
    encoder = built("cpu", model="eva02_tiny_patch14_224", img_size=28)
    with torch.no_grad():
        found = encoder(torch.rand(1, 3, 28, 28))
    assert found.mean(-1).abs().max() < 1e-4  # a fresh layer norm
    assert found.std(-1, correction=0).sub(1).abs().max() < 1e-2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            {"model": "halonet26t", "img_size": 192},
            r"cannot take tiles of 192 px .*own size is 256",
        ),
        ({"model": "crossvit_9_240", "img_size": 240}, "neither a map nor a row of tokens"),
        ({"model": "swin_tiny_patch4_window7_224", "layer": -2}, "no plain row of blocks"),
        ({"model": "resnet18", "layer": -2}, "no plain row of blocks"),
        ({"model": "vit_tiny_patch16_224", "layer": -13}, "outside a trunk of 12 blocks"),
        ({"model": "resnet18", "args": {"img_size": 64}}, "cannot be built .*img_size"),
        ({"model": "vit_tiny_patch16_224", "args": {"img_sice": 64}}, "cannot be built .*img_sice"),
        ({"model": "resnet18", "stem": "conv"}, "cannot be built .*embed_layer"),
        ({"model": "resnet19"}, "no model 'resnet19'"),
    ],
)
def test_what_timm_cannot_do_is_refused(words: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        built("meta", **words)
