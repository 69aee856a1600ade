"""`import omnimix` is enough for transformers' auto classes, and imports neither transformers nor torch.

transformers asks a table of configurations by the `model_type` of a folder's `config.json`. Ours is put there as
soon as the module with the table is imported, and what it stands for is imported when it is first asked for: the
model, the processor and, with them, every other registration.

peft asks tables of its own, by the same word, which layers an adapter sits on by default. For ours these are the
layers that it knows for the language model inside, and those of the language model alone.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

MODEL_TYPE = "omnimix"
_TABLE = "transformers.models.auto.configuration_auto"
_TUNERS = "peft.tuners.tuners_utils"


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
    """Finds the modules with the tables as ever, and fills a table once it is there."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        fill = _FILLED.get(fullname)
        if fill is None:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                fill(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Fill the tables now or once they are imported; calling it again changes nothing."""
    for name, fill in _FILLED.items():
        if name in sys.modules:
            fill(sys.modules[name])
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _fill(module: ModuleType) -> None:
    table = module.CONFIG_MAPPING
    if MODEL_TYPE not in table._extra_content:
        table._extra_content = _Later({**table._extra_content, MODEL_TYPE: None})


def _tell_targets(module: ModuleType) -> None:
    """Let peft find default targets: what it asks a model before it looks them up fills its tables."""
    tuner = module.BaseTuner
    plain = tuner.get_model_config
    if plain.__module__ == __name__:
        return

    def get_model_config(model: Any) -> Any:
        words = plain(model)
        if words.get("model_type") == MODEL_TYPE:
            _fill_targets(model, words["text_config"]["model_type"])
        return words

    tuner.get_model_config = staticmethod(get_model_config)


def _fill_targets(model: Any, language: str) -> None:
    """Names of the layers of this very model, since other language models have others."""
    names = [name for name, _ in model.named_modules() if name.startswith("language.")]
    constants = vars(importlib.import_module("peft.utils.constants"))
    for table in [constants[name] for name in constants if name.endswith("_MODULES_MAPPING")]:
        known = table.get(language, ())
        ends = known if isinstance(known, str) else rf"(.*\.)?({'|'.join(map(re.escape, known))})"
        table.pop(MODEL_TYPE, None)
        if found := [name for name in names if known and re.fullmatch(ends, name)]:
            table[MODEL_TYPE] = found


_FILLED: dict[str, Callable[[ModuleType], None]] = {_TABLE: _fill, _TUNERS: _tell_targets}
