"""Which causal language models of transformers may stand together in which form, found by trying them all.

`python -m tests.language.survey` prints the answer in the form of `forms.yaml`; read the difference before you
take it over. What an older version of transformers gives otherwise stands under `before`, by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
import yaml
from packaging.version import Version
from transformers import CONFIG_MAPPING

import omnimix  # noqa: F401 (before transformers looks for torchvision)
from omnimix import _transformers
from omnimix.language import forms

FILE = Path(__file__).parent / "forms.yaml"
EXPECTED: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
for newer, others in EXPECTED.pop("before").items():
    if Version(transformers.__version__) < Version(newer):
        EXPECTED["refused"] |= others
UNMADE = "its tiny copy"


def names() -> list[str]:
    return sorted(set(_transformers.causal_lm_types()) - {"omnimix"})


def configured(name: str) -> Any:
    """The configuration of an architecture that is tried."""
    config = CONFIG_MAPPING[name](**EXPECTED["words"].get(name, {}))
    if hasattr(config, "is_decoder"):
        config.is_decoder = True
    return config


def found(name: str) -> list[str] | str:
    """Forms that the architecture is refused in; a sentence where its tiny copy cannot be made."""
    try:
        config = configured(name)
    except Exception as error:  # its own defaults do not stand
        return type(error).__name__
    troubles = forms.troubles(config, "sdpa")
    packed = troubles.get("packed", "")
    if packed.startswith(UNMADE):
        return packed[packed.index("(") + 1 : -1]
    return list(troubles)


def main() -> None:
    result = {name: found(name) for name in names()}
    refused = {
        name: " ".join(each) for name, each in result.items() if isinstance(each, list) and each
    }
    unmade = {name: each for name, each in result.items() if isinstance(each, str)}
    whole = [name for name, each in result.items() if each == []]
    print(
        f"# {len(result)} architectures: {len(whole)} right in every form, {len(refused)} refused in some,"
    )
    print(f"# {len(unmade)} whose tiny copy cannot be made (packing is refused)")
    whole = [n for n in names() if n not in unmade and not forms.headed(configured(n), "sdpa")]
    tables = {"words": EXPECTED["words"], "refused": refused, "unmade": unmade, "whole": whole}
    print(yaml.safe_dump(tables, width=110))


if __name__ == "__main__":
    main()
