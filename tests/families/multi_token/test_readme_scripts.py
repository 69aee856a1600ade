"""The scripts of multi_token's README and `scripts/` on the tiny checkpoints, import line and paths changed."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from omnimix.errors import OmnimixError, SampleError
from omnimix.families.multi_token.face import (
    MODALITY_BUILDERS,
    Modality,
    encode_chat,
    load_trained_lora_model,
    split_text_into_documents,
)
from omnimix.families.multi_token.senses import SENSES
from omnimix.generate.decoding import Options
from omnimix.serve.app import Settings, create_app
from omnimix.serve.engine import OneAtATime
from omnimix.serve.items import ItemReader
from tests.cases import case_path

CASE = case_path("multi_token/vision_lora")
BASE = CASE / "backbones/mistralai/Mistral-7B-Instruct-v0.1"


def requests(case: str) -> list[dict[str, Any]]:
    text = (case_path(f"multi_token/{case}") / "inputs/request.json").read_text()
    found: list[dict[str, Any]] = json.loads(text)["requests"]
    return found


def answers(case: str) -> dict[str, Any]:
    facts = json.loads((case_path(f"multi_token/{case}") / "case.json").read_text())
    return {one["name"]: one for one in facts["requests"]}


@pytest.fixture(autouse=True)
def in_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CASE / "inputs")


@pytest.mark.parametrize("case", ["vision_lora", "audio_document_mix", "imagebind_three_kinds"])
def test_serve_model(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The body of scripts/serve_model.py, its sampling turned off so that the golden ids come back."""
    folder = case_path(f"multi_token/{case}")
    monkeypatch.chdir(folder / "inputs")
    model, tokenizer = load_trained_lora_model(
        model_name_or_path=str(folder / "backbones/mistralai/Mistral-7B-Instruct-v0.1"),
        model_lora_path=str(folder / "checkpoint"),
        load_bits=16,
    )
    golden = answers(case)
    for row in requests(case):
        encoded_dict = encode_chat(row["body"], tokenizer, model.modalities)
        wanted = golden[row["name"]]
        assert encoded_dict["input_ids"].tolist() == wanted["input_ids"]
        with torch.inference_mode():
            output_ids = model.generate(
                input_ids=encoded_dict["input_ids"].unsqueeze(0).to(model.device),
                max_new_tokens=16,
                use_cache=True,
                do_sample=False,
                temperature=0.01,
                modality_inputs={m.name: [encoded_dict[m.name]] for m in model.modalities},
            )
        outputs = tokenizer.decode(
            output_ids[0, encoded_dict["input_ids"].shape[0] :],
            skip_special_tokens=True,
        ).strip()
        assert outputs == wanted["generated_text"].strip()
        new = output_ids[0, len(wanted["input_ids"]) :].tolist()
        assert new == wanted["generated_ids"][: len(new)] and new


def test_modalities_and_builders_are_the_published_ones() -> None:
    facts = json.loads(case_path("multi_token/facts.json").read_text())
    builders = {name: rows for name, rows in facts["modality_builders"].items() if name != "note"}
    assert MODALITY_BUILDERS.keys() == builders.keys()
    classes = {row["class_name"]: row["name"] for row in facts["modalities"]}
    for name, rows in builders.items():
        assert [m.name for m in MODALITY_BUILDERS[name]()] == [
            classes[row.split("(")[0]] for row in rows
        ]
    for row in facts["modalities"]:
        ours = Modality.of(row["name"])
        assert (ours.token, ours.data_key) == (row["token"], row["data_key"])
        assert ours.token_idx == row["token_idx"]
        assert SENSES[row["name"]].hub == row["encoder"].split(" ")[0].removesuffix("_huge")
    for token, number in facts["token_idx"]["values"].items():
        assert replace(ours, token=token).token_idx == number


def test_the_clients_of_the_readme() -> None:
    """`requests.post(".../generate", json={...}).json()` as the README shows it."""
    model, _ = load_trained_lora_model(str(BASE), str(CASE / "checkpoint"))
    settings = Settings(ItemReader(Path(os.curdir)), Options(max_new_tokens=24))
    with TestClient(create_app(OneAtATime(model.assistant, "vision_lora"), settings)) as requests:
        said = requests.post(
            "http://localhost:7860/generate",
            json={
                "messages": [
                    {
                        "role": "user",
                        "content": "Compare <image> and <image>. Which one shows an animal?",
                    }
                ],
                "images": ["images/cat.png", "images/coffee.jpg"],
            },
        ).json()
    assert said == {"output": "The first image shows a cat."}


def test_long_documents() -> None:
    text = "The old lighthouse stands at the end of the rock. Every evening the keeper climbed it. "
    gte = case_path("multi_token/audio_document_mix/backbones/thenlper/gte-large")
    docs = split_text_into_documents(text * 40, gte)
    assert len(docs) > 1
    content = "Read the paper " + "<document>" * len(docs) + ". Give me a summary."
    assert content.count("<document>") == len(docs)


def test_builders_make_what_scripts_read_off_them() -> None:
    (modality,) = MODALITY_BUILDERS["audio_whisper"]()
    assert (modality.name, modality.token, modality.data_key, modality.token_idx) == (
        "audio_whisper",
        "<speech>",
        "speech_audios",
        -8565,
    )


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(OmnimixError, match="load_bits is 2"):
        load_trained_lora_model(str(BASE), str(CASE / "checkpoint"), load_bits=2)
    model, tokenizer = load_trained_lora_model(str(BASE), str(CASE / "checkpoint"))
    with pytest.raises(OmnimixError, match="not audio_whisper"):
        load_trained_lora_model(
            str(BASE), str(CASE / "checkpoint"), modalities=MODALITY_BUILDERS["audio_whisper"]()
        )
    body = requests("vision_lora")[0]["body"]
    encoded = encode_chat(body, tokenizer, model.modalities)
    ids = encoded["input_ids"][None]
    with pytest.raises(OmnimixError, match="0 items"):
        model.generate(ids, modality_inputs={})
    with pytest.raises(OmnimixError, match="takes no 'num_beam'"):
        model.generate(ids, modality_inputs={"vision_clip": [encoded["vision_clip"]]}, num_beam=2)


def test_arguments_of_another_form_are_refused() -> None:
    with pytest.raises(SampleError, match="load_trained_lora_model: model_lora_path: NoneType"):
        load_trained_lora_model(str(BASE), None)  # type: ignore[arg-type]
    model, tokenizer = load_trained_lora_model(str(BASE), str(CASE / "checkpoint"))
    body = requests("vision_lora")[0]["body"]
    given = encode_chat(body, tokenizer, model.modalities)
    rows, items = given["input_ids"][None], {"vision_clip": [given["vision_clip"]]}
    with pytest.raises(SampleError, match="encode_chat: item: NoneType was given"):
        encode_chat(None, tokenizer, model.modalities)  # type: ignore[arg-type]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"input_ids": None}, "input_ids: NoneType was given"),
        ({"input_ids": rows[0]}, "input_ids are torch.int64 of the shape"),
        ({"input_ids": rows, "modality_inputs": {"vision_clp": []}}, "Did you mean 'vision_clip'?"),
        (
            {"input_ids": rows, "modality_inputs": {"vision_clip": []}},
            "0 lists of vision_clip for 1",
        ),
    ]
    for words, said in wrong:
        with pytest.raises(OmnimixError, match=re.escape(said)):
            model.generate(**words)
    cached, alone = (
        model.generate(rows, items, max_new_tokens=4, use_cache=use) for use in (True, False)
    )
    assert cached.tolist() == alone.tolist()
