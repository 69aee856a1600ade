"""The cure for a CUDA torchvision beside a CPU torch; each case in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

ALONE = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("cure", {path!r})
cure = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cure)
"""


def run(code: str) -> str:
    spec = find_spec("omnimix._torchvision")
    assert spec is not None
    done = subprocess.run(
        [sys.executable, "-c", ALONE.format(path=spec.origin) + code],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_installing_is_cheap_and_idempotent() -> None:
    code = """
before = len(sys.meta_path)
cure.install()
cure.install()
print(len(sys.meta_path) - before, "torch" in sys.modules, "torchvision" in sys.modules)
"""
    assert run(code) == "1 False False"


def test_torchvision_and_timm_import_after_it() -> None:
    code = """
cure.install()
import torchvision, timm
from torchvision.transforms import v2
cure.install()
print(any(isinstance(finder, cure._Finder) for finder in sys.meta_path))
"""
    assert run(code) == "False"


def test_importing_omnimix_is_enough() -> None:
    assert run("import omnimix, torchvision; print(torchvision.__name__)") == "torchvision"


@pytest.mark.parametrize("build", ["cuda", "hip"])
def test_nothing_is_declared_beside_an_accelerator(build: str) -> None:
    code = f"""
import torch
torch.version.cuda = torch.version.hip = None
torch.version.{build} = "13.0"
print(cure._is_needed())
"""
    assert run(code) == "False"


def test_nothing_is_declared_where_the_library_loads() -> None:
    code = """
import torch
torch.version.cuda = torch.version.hip = None
torch.ops.load_library = lambda path: None
print(cure._is_needed())
"""
    assert run(code) == "False"


def test_declaring_twice_does_no_harm() -> None:
    code = """
cure._declare()
cure._declare()
import torch
print(torch.ops.torchvision.nms.default._schema)
"""
    assert "iou_threshold" in run(code)
