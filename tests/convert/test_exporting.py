"""The language model alone: what others open answers as ours does, and what they would get wrong is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from omnimix.compose.processor import Processor
from omnimix.convert import exporting
from omnimix.errors import OmnimixError
from tests.generate.test_engine import of_kind
from tests.peers import engines


def test_a_folder_answers_as_the_model_does(tiny_processor: Processor, tmp_path: Path) -> None:
    assistant = of_kind("mistral", tiny_processor)
    exporting.write_folder(assistant, tmp_path / "out")
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    given = exporting.probes(assistant.model.language)[0]
    wanted = exporting.greedy(assistant.model.language, given)
    ids = read.generate(
        inputs_embeds=given, max_new_tokens=len(wanted), do_sample=False, eos_token_id=None
    )
    assert ids[0].tolist() == wanted and len(set(wanted)) > 1
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    words = "Where is the star?"
    assert (
        tokenizer.encode(words, add_special_tokens=False)
        == tiny_processor.weave.tokenizer.encode(words)[0]
    )
    with pytest.raises(OmnimixError, match="there already"):
        exporting.write_folder(assistant, tmp_path / "out")


def test_a_folder_that_answers_otherwise_is_not_left(
    tiny_processor: Processor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assistant = of_kind("llama", tiny_processor)
    save = assistant.model.language.save_pretrained

    def damaged(place: Path) -> None:
        table = assistant.model.language.lm_head.weight
        with torch.no_grad():
            table.neg_()
            save(place)
            table.neg_()

    monkeypatch.setattr(assistant.model.language, "save_pretrained", damaged)
    with pytest.raises(OmnimixError, match="the folder answers"):
        exporting.write_folder(assistant, tmp_path / "out")
    assert not [*tmp_path.iterdir()]


def test_gguf_gives_the_same_logits(tiny_processor: Processor, tmp_path: Path) -> None:
    import gguf

    language: Any = of_kind("llama", tiny_processor).model.language
    exporting.write_gguf(of_kind("llama", tiny_processor), tmp_path / "out.gguf")
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    stored = {one.name: torch.tensor(one.data).float() for one in reader.tensors}
    # llama.cpp turns neighbours where transformers turns halves: turned in its way, its rows give the same products.
    own = language.model.layers[0].self_attn.q_proj.weight
    heads = language.config.num_attention_heads
    width = own.shape[0] // heads
    theirs = stored["blk.0.attn_q.weight"].view(heads, width // 2, 2, -1)
    halves = own.view(heads, 2, width // 2, -1)
    for half in (0, 1):
        torch.testing.assert_close(theirs[:, :, half], halves[:, half], atol=1e-3, rtol=1e-3)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "llama"
    assert fields["llama.attention.head_count_kv"] == language.config.num_key_value_heads
    assert fields["tokenizer.ggml.model"] == "no_vocab"


@pytest.mark.parametrize(
    ("kind", "why"), [("qwen2", "another kind"), ("mistral", "sliding window")]
)
def test_other_shapes_are_refused(
    kind: str, why: str, tiny_processor: Processor, tmp_path: Path
) -> None:
    with pytest.raises(OmnimixError, match=f"{kind} cannot be written as GGUF.*{why}"):
        exporting.write_gguf(of_kind(kind, tiny_processor), tmp_path / "out.gguf")
    assert not [*tmp_path.iterdir()]


def test_a_missing_package_is_named(
    tiny_processor: Processor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OmnimixError) as caught:
        exporting.write_gguf(of_kind("llama", tiny_processor), tmp_path / "out.gguf")
    assert caught.value.hint == "pip install 'omnimix[gguf]'"


@pytest.mark.parametrize("package", ["vllm", "llama-cpp-python"])
def test_scripts_say_what_is_missing(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        engines.look("some_module", package)
    assert ended.value.code == engines.MISSING
    assert f"pip install {package}" in capsys.readouterr().out
