"""`import omnimix` is enough for transformers' auto classes, and imports neither transformers nor torch.

transformers asks a table of configurations by the `model_type` of a folder's `config.json`. Ours is put there as
soon as the module with the table is imported, and what it stands for is imported when it is first asked for: the
model, the processor and, with them, every other registration.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

MODEL_TYPE = "omnimix"
_TABLE = "transformers.models.auto.configuration_auto"


class _Later(dict[str, Any]):
    """Configurations by model type; ours is None until it is asked for."""

    def __getitem__(self, key: str) -> Any:
        if super().__getitem__(key) is None:
            for module in ("model", "processor"):  # the first fills this table
                importlib.import_module(f"omnimix.compose.{module}")
        return super().__getitem__(key)

    def values(self) -> Any:
        return [self[key] for key in self]

    def items(self) -> Any:
        return [(key, self[key]) for key in self]


class _Finder(MetaPathFinder):
    """Finds the module with the table as ever, and fills the table once it is there."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _TABLE:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                _fill(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Fill the table now or once it is imported; calling it again changes nothing."""
    if _TABLE in sys.modules:
        _fill(sys.modules[_TABLE])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _fill(module: ModuleType) -> None:
    table = module.CONFIG_MAPPING
    if MODEL_TYPE not in table._extra_content:
        table._extra_content = _Later({**table._extra_content, MODEL_TYPE: None})
