"""Shapes in signatures are checked while testing (`conftest.py` installs the hook)."""

from __future__ import annotations

import sys

import pytest
import torch
from jaxtyping import TypeCheckError

from omnimix.compose.splice import splice
from omnimix.connectors.base import Connector
from omnimix.connectors.mlp import Linear
from omnimix.media.tensor_steps import TensorResize
from tests.conftest import CHECKED


def test_a_wrong_shape_is_an_error_where_it_enters() -> None:
    text, index = torch.zeros(1, 4, 3), torch.tensor([[1, 2, 0, 0]])
    assert splice(text, torch.ones(2, 3), index).sum() == 6
    for wrong in (torch.ones(2, 5), torch.ones(2, 3, 1), torch.ones(2, 3, dtype=torch.int64)):
        with pytest.raises(TypeCheckError, match="features"):
            splice(text, wrong, index)


def test_methods_and_results_are_checked() -> None:
    connector = Linear().build(4, 8, 16)
    assert isinstance(connector, Connector)
    with pytest.raises(TypeCheckError, match="features"):
        connector(torch.zeros(4, 8))
    with pytest.raises(TypeCheckError, match="pixels"):
        TensorResize(size=4).on_tensor(torch.zeros(2, 1, 8, 8))


def test_every_module_with_shapes_is_checked() -> None:
    assert {"omnimix.compose.model", "omnimix.encoders.timm", "omnimix.media.region"} <= {*CHECKED}
    for name in CHECKED:
        if name in sys.modules:
            loader = type(sys.modules[name].__spec__.loader)  # type: ignore[union-attr]
            assert "jaxtyping" in loader.__module__, f"{name} was imported before the hook"
