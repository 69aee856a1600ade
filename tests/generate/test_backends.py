"""OpenVINO writes what torch writes, whoever joins and leaves; what it would get wrong is refused by name."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from tests.generate.test_engine import LONG, asked, of_kind

from omnimix.cache import MOVED
from omnimix.compose.processor import Processor
from omnimix.compose.sequence import Sequence as Woven
from omnimix.errors import OmnimixError
from omnimix.generate import opening
from omnimix.generate.assistant import Assistant
from omnimix.generate.engine import backends, openvino
from omnimix.generate.engine.core import Core, Limits
from omnimix.generate.opening import open_model
from omnimix.language import ragged
from omnimix.types import Sample
from omnimix_scenes import Scenes


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MOVED, str(tmp_path))


def questions(assistant: Assistant) -> list[Woven]:
    scenes = Scenes(1000, "heldout")
    made = [scenes.question(task, i % 3) for i, task in enumerate(("describe", "find", "compare"))]
    return [assistant.weave(Sample(one.turns[:1], one.id), LONG) for one in made]


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_joining_and_leaving_changes_no_answer(kind: str, tiny_processor: Processor) -> None:
    assistant = of_kind(kind, tiny_processor)
    woven = questions(assistant)
    wanted = [one.ids for one in assistant.decoder.write(woven, LONG, assistant.endings(LONG))]
    assert len({tuple(ids) for ids in wanted}) > 1, "the answers should tell prompts apart"
    run = backends.runner_of("openvino")(assistant.model)
    assert isinstance(run, openvino.Paged)
    core = Core(assistant.model, Limits(3, prefill_chunk=7, prefix_memory=2**24), run)
    order = [*range(len(woven))] * 3
    random.Random(kind).shuffle(order)
    requests = [(i, asked(assistant, woven[i])) for i in order]
    for _, one in requests:
        core.add(one)
        core.step()
    while core.step():
        pass
    assert [one.ids for _, one in requests] == [wanted[i] for i, _ in requests]
    assert core.prefixes.hits
    del requests, one
    assert len(run._free) == len(run.pools[0]), "every page was given back"


def test_a_model_that_was_saved_keeps_its_graph(tiny_processor: Processor, tmp_path: Path) -> None:
    model = of_kind("llama", tiny_processor).model
    before = backends.fingerprint(model, "16", "1")
    model.language.save_pretrained(tmp_path / "saved")
    assert backends.fingerprint(model, "16", "1") == before
    model.language.config.rms_norm_eps *= 2
    assert backends.fingerprint(model, "16", "1") != before


def test_a_graph_is_kept_and_made_anew_for_other_weights(
    tiny_processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = of_kind("llama", tiny_processor).model
    said: list[str] = []
    make = backends.runner_of("openvino", "int8", said.append)
    make(model)
    assert "weights in int8" in said[0] and "same token" in said[0]
    traced: list[object] = []
    whole = openvino.traced
    monkeypatch.setattr(openvino, "traced", lambda *a: (traced.append(a), whole(*a))[1])
    make(model)
    assert not traced
    with torch.no_grad():
        model.language.lm_head.weight[0, 0] += 1
    make(model)
    assert traced


def test_four_bits_are_measured(tiny_processor: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    model = of_kind("llama", tiny_processor).model
    said: list[str] = []
    backends.runner_of("openvino", "int4", said.append)(model)
    monkeypatch.setitem(backends.BOUNDS, "int4", 1e-3)
    with pytest.raises(OmnimixError, match="with weights in int4: logits at most") as caught:
        backends.runner_of("openvino", "int4", said.append)(model)
    assert caught.value.hint == "take --weights 16"


@pytest.mark.parametrize(
    ("kind", "why"),
    [("gemma2", "soft cap"), ("lfm2", "confuse texts"), ("gpt_oss", "cannot run gpt_oss")],
)
def test_what_it_cannot_run_is_refused(kind: str, why: str, tiny_processor: Processor) -> None:
    with pytest.raises(OmnimixError, match=why):
        backends.runner_of("openvino")(of_kind(kind, tiny_processor).model)


def test_a_wrong_graph_is_not_kept(
    tiny_processor: Processor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = of_kind("mistral", tiny_processor).model
    attend = openvino._Traced.attend

    def blind(self: object, *given: object) -> object:
        return attend(self, *given[:4], None, *given[5:])  # type: ignore[arg-type]

    monkeypatch.setattr(openvino._Traced, "attend", blind)
    with pytest.raises(OmnimixError, match="cannot run mistral with weights in 16"):
        backends.runner_of("openvino")(model)
    assert not [*tmp_path.rglob("model.xml")]


def test_words_that_do_not_fit() -> None:
    for words, why in (
        ({"backend": "onnx"}, "unknown backend"),
        ({"backend": "openvino", "weights": "8"}, "unknown weights"),
        ({"weights": "int8"}, "torch holds no weights in int8"),
        ({"dtype": "bf16"}, "unknown dtype"),
        (
            {"backend": "openvino", "dtype": "bfloat16"},
            "OpenVINO takes the language model in float32",
        ),
        ({"dtype": "auto", "quantization": "nf4"}, "a type of their own"),
    ):
        with pytest.raises(OmnimixError, match=why):
            open_model("nano", **words)  # type: ignore[arg-type]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OmnimixError) as caught:
        backends.runner_of("openvino")
    assert caught.value.hint == "pip install 'omnimix[openvino]'"


def test_the_sooner_type_is_taken_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    took = {torch.float32: (1.0, 1.0), torch.bfloat16: (0.5, 1.2)}
    monkeypatch.setattr(opening, "seconds", lambda language, dtype: took[dtype])
    said: list[str] = []
    assistant = open_model("nano", dtype="auto", say=said.append)
    assert assistant.model.dtype == torch.bfloat16 and "number type bfloat16" in said[0]


def test_types_are_timed_and_answers_compared() -> None:
    said: list[str] = []
    assistant = open_model("nano", backend="openvino", weights="int8", say=said.append)
    assert "of 4 short answers" in said[-1]
    assert isinstance(assistant.decoder.runner, openvino.Paged)
    reading, writing = opening.seconds(assistant.model.language, torch.float32)
    assert reading > 0 and writing > 0


def test_a_missing_engine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda _: None)
    for backend, package in (("openvino", "openvino"), ("llama.cpp", "llama_cpp")):
        with pytest.raises(OmnimixError, match=f"package {package} is missing") as caught:
            backends.runner_of(backend)  # type: ignore[arg-type]
        assert caught.value.hint == f"pip install 'omnimix[{backend.replace('.', '-')}]'"


def test_files_for_llama_cpp_hold_the_weights(tiny_processor: Processor, tmp_path: Path) -> None:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    from omnimix.generate.engine import llama_cpp

    model = of_kind("llama", tiny_processor).model
    steps = ("16", "int8", "int4")
    head = model.language.lm_head.weight.detach().float()
    errors = []
    for _ in llama_cpp.drafts(model, ragged.CacheLayout(), steps, tmp_path):
        held = {one.name: one for one in GGUFReader(tmp_path / "model.gguf").tensors}
        name = "output.weight" if "output.weight" in held else "token_embd.weight"
        found = torch.from_numpy(dequantize(held[name].data, held[name].tensor_type))
        errors.append(float((found - head).abs().max() / head.abs().max()))
    assert errors[0] < 1e-3 < errors[1] < 1e-2 < errors[2] < 0.2
    other = of_kind("gemma3_text", tiny_processor).model
    with pytest.raises(OmnimixError, match="another kind than llama's"):
        next(llama_cpp.drafts(other, ragged.CacheLayout(), steps, tmp_path))
