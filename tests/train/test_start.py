"""Where a run begins: pretrained parts, another model, one with a sense more or less."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from omnimix import config
from omnimix.compose import recipe as recipes
from omnimix.compose.processor import Processor
from omnimix.errors import TrainError
from omnimix.train.run import train
from omnimix.train.watcher import Watcher
from tests import hub
from tests.conftest import TINY
from tests.models import random_model
from tests.train.runs import Write, weights

ONE_STEP = "stages.0.max_steps=1"
SENSE = (
    "modalities.document={opens: document, steps: [{kind: tokenize, path: nano.tokenizer.json}], "
    "branches: [{encoders: [{kind: text, config: {model_type: bert, vocab_size: 712, hidden_size: 32, "
    "intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}}], connector: mlp}]}"
)


class Heard(Watcher):
    def __init__(self) -> None:
        self.said: list[str] = []

    def tell(self, sentence: str) -> None:
        self.said.append(sentence)


def test_a_sense_is_added_to_a_finished_model(write: Write, tiny_folder: Path) -> None:
    heard = Heard()
    words = [ONE_STEP, f"initial_checkpoint={tiny_folder}", "stages.0.trainable=[region]"]
    words += ["stages.0.optimizer.lr=1.0e-30", "set=" + json.dumps([*TINY, SENSE])]
    result = train(write(), words, watcher=heard)
    ours, theirs = weights(result.folder), load_file(tiny_folder / "model.safetensors")
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    fresh = {name for name in ours if name not in theirs}
    assert fresh and all(name.startswith("document.") for name in fresh)
    told = [line for line in heard.said if line.startswith("weights")]
    assert any("document.branches.0.connector" in line and "4 fresh" in line for line in told)
    assert any(line.split()[1] == "language" and "fresh" not in line for line in told)


def test_another_connector_begins_fresh_and_a_sense_less_is_told(
    write: Write, tiny_folder: Path
) -> None:
    heard = Heard()
    change = ["modalities.image.branches.0.connector={kind: linear_norm}", "modalities.region=null"]
    rows = [
        '{"turns": [{"role": "user", "content": [{"image": "a.png"}, "?"]}, '
        '{"role": "assistant", "content": ["red"]}]}'
    ]
    words = [ONE_STEP, f"initial_checkpoint={tiny_folder}"]
    train(write(rows), [*words, "set=" + json.dumps([*TINY, *change])], watcher=heard)
    told = "\n".join(heard.said)
    assert "image.branches.0.connector" in told and "left out (region." in told


def test_a_recipe_may_be_left_out_where_a_model_is_named(write: Write, tiny_folder: Path) -> None:
    words = ["recipe=null", "set=[]", ONE_STEP, f"initial_checkpoint={tiny_folder}"]
    result = train(write(), words)
    assert recipes.load(result.folder / "model").name == "tiny"


def test_pretrained_parts_learn_and_the_model_opens_elsewhere(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from omnimix.generate.assistant import load

    hub.language(tmp_path / "lm")
    hub.timm_tower(tmp_path / "vit")
    own = {
        "name": "own",
        "language": {"weights": "lm"},
        "template": "tokenizer",
        "modalities": {
            "image": {
                "opens": "image",
                "steps": [{"kind": "resize", "size": 64}],
                "branches": [
                    {"encoders": [{"kind": "timm", "weights": "vit"}], "connector": "mlp"}
                ],
            }
        },
    }
    (tmp_path / "own.yaml").write_text(config.to_yaml(own))
    rows = [
        '{"turns": [{"role": "user", "content": [{"image": "a.png"}, "?"]}, '
        '{"role": "assistant", "content": ["red"]}]}'
    ]
    path = write(rows, [{"trainable": ["connectors"], "max_steps": 1}])
    result = train(path, ["recipe=own.yaml", "set=[]"])
    first = load(result.folder / "model").answer("?", image=tmp_path / "a.png", max_new_tokens=3)
    moved = tmp_path / "moved"
    (result.folder / "model").rename(moved)
    monkeypatch.chdir(moved)
    for name in ("lm", "vit"):
        (tmp_path / name).rename(tmp_path / f"{name}-gone")
    assert load(moved).answer("?", image=tmp_path / "a.png", max_new_tokens=3) == first
    # A finished model is a start like any other: the weights its recipe was made from are not asked for.
    again = train(
        path,
        [f"recipe={moved}/recipe.yaml", "set=[]", f"initial_checkpoint={moved}"],
        out=tmp_path / "again",
    )
    assert again.finished


def test_another_language_model_is_refused(write: Write, tmp_path: Path) -> None:
    recipe = recipes.load("nano", [*TINY, "language.config.hidden_size=64"])
    random_model(recipe).save_pretrained(tmp_path / "other")
    Processor.from_recipe(recipe).save_pretrained(tmp_path / "other")
    with pytest.raises(TrainError, match=r"do not fit the model .*same language model"):
        train(write(), ["initial_checkpoint=other"])


def test_the_start_names_what_check_would_find(write: Write) -> None:
    def row(part: object, answer: str = "red") -> str:
        asked = {"role": "user", "content": [{"image": "a.png"}, "In ", part]}
        return json.dumps({"turns": [asked, {"role": "assistant", "content": [answer]}]})

    rows = [row("what?"), row({"box": [1, 1, 1.2, 9]}), row({"box": [0.1, 0.1, 0.4, 0.9]})]
    heard = Heard()
    words = [ONE_STEP, "stages.0.max_dropped=1"]
    train(write([*rows, row("what?", " ")]), words, watcher=heard)
    warned = "\n".join(line for line in heard.said if line.startswith("warning"))
    assert "talks.jsonl: line 2: region 1 (1, 1, 1.2, 9) is smaller than a pixel" in warned
    assert "are these shares of the picture?" in warned
    assert "line 4: turn 2 is an empty answer" in warned
