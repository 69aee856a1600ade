"""One step of the trainers of others on nano with pictures, beside our own on the same ids."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from PIL import Image
from torch import Tensor
from transformers import Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from omnimix.compose import recipe as recipes
from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.generate import folder
from omnimix.types import Media, Sample, Turn
from tests.conftest import TINY

QUESTIONS = ("How many?", "What is the colour of the large thing on the left?")
ANSWERS = ("two", "a red circle")
PICTURES = [
    Image.fromarray(np.random.default_rng(i).integers(0, 255, (60, side, 3), dtype=np.uint8))
    for i, side in enumerate((80, 50))
]


TOWER = {
    "kind": "transformers",
    "config": {
        "model_type": "clip_vision_model",
        "image_size": 224,
        "patch_size": 16,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
}
LANGUAGE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 712,
    "max_position_embeddings": 64,
}


def of_language(model_type: str) -> Recipe:
    """nano with a tiny language model of another kind, and a tower whose layers have names as a llama's."""
    words = recipes.load("nano", TINY[:-1]).dump(defaults=True)
    words["modalities"]["image"]["branches"][0]["encoders"] = [TOWER]
    words["language"]["config"] = LANGUAGE | {"model_type": model_type}
    return recipes.parse(words, "test")


def names_of(model: torch.nn.Module, end: str) -> list[str]:
    return [name for name, _ in model.named_modules() if name.endswith(end)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, processor = folder.read(folder.find("nano"), torch.device("cpu"))
    here = tmp_path_factory.mktemp("nano")
    model.save_pretrained(here)
    processor.save_pretrained(here)
    return here


@pytest.fixture(scope="module")
def processor(place: Path) -> Processor:
    return Processor.from_pretrained(place)


def opened(place: Path) -> MultimodalLM:
    """Its encoder has batch norms, whose statistics stand still where it learns nothing."""
    model: MultimodalLM = MultimodalLM.from_pretrained(place)
    for encoder in model.image.branches[0].encoders:
        encoder.requires_grad_(False)
    return model


@pytest.fixture
def plain(place: Path) -> MultimodalLM:
    return opened(place).train()


def words(out: Path, **more: Any) -> dict[str, Any]:
    return {
        "output_dir": str(out),
        "per_device_train_batch_size": 2,
        "max_steps": 1,
        "learning_rate": 1e-4,
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        **more,
    }


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def talk(row: int, answer: str) -> Sample:
    turn = Turn("user", (Media.image(PICTURES[row]), QUESTIONS[row]))
    return Sample((turn, Turn("assistant", (answer,))), str(row))


def logged(trainer: Any) -> dict[str, float]:
    trainer.train()
    found: dict[str, float] = trainer.state.log_history[0]
    return found


def row_of(batch: Batch, model: MultimodalLM) -> tuple[list[int], Tensor]:
    """Of a batch of one, its ids, and of each but the first the logarithm of its probability."""
    with torch.no_grad():
        logits = model(**batch.inputs()).logits
    ids = batch.input_ids[0]
    likely = logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    return ids.tolist(), likely


def batch_of(trainer: Any) -> dict[str, Any]:
    found: dict[str, Any] = dict(next(iter(trainer.get_train_dataloader())))
    return found


def same_gradients(one: torch.nn.Module, other: torch.nn.Module) -> None:
    theirs = dict(other.named_parameters())
    learned = {name: p.grad for name, p in one.named_parameters() if p.grad is not None}
    assert {name for name, p in theirs.items() if p.grad is not None} == set(learned)
    assert any(name.startswith("image.") for name in learned)
    for name, gradient in learned.items():
        torch.testing.assert_close(gradient, theirs[name].grad, atol=1e-5, rtol=1e-3)


def test_sft_with_adapters(
    place: Path, processor: Processor, plain: MultimodalLM, tmp_path: Path
) -> None:
    """TRL puts peft around the model, whose words then come in another form; fresh adapters change no loss."""
    trainer = SFTTrainer(
        model=opened(place),
        args=SFTConfig(**words(tmp_path, max_length=None)),
        train_dataset=Dataset.from_list(talked()),
        processing_class=processor,
        peft_config=LoraConfig(task_type="CAUSAL_LM"),
    )
    batch = batch_of(trainer)
    wanted = plain.requires_grad_(False)(**batch).loss
    found = trainer.compute_loss(trainer.model, dict(batch))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    trainer.train()
    learned = [p for name, p in trainer.model.named_parameters() if "lora_B" in name]
    assert learned and all(p.abs().sum() > 0 for p in learned)


def talked() -> list[dict[str, Any]]:
    """Both rows, as SFT takes them."""
    return [
        {
            "images": [PICTURES[i]],
            "messages": [said("user", QUESTIONS[i]), said("assistant", ANSWERS[i])],
        }
        for i in range(2)
    ]


def test_sft(place: Path, processor: Processor, plain: MultimodalLM, tmp_path: Path) -> None:
    trainer = SFTTrainer(
        model=(model := opened(place).train()),
        args=SFTConfig(**words(tmp_path, max_length=None)),
        train_dataset=Dataset.from_list(talked()),
        processing_class=processor,
    )
    batch = batch_of(trainer)
    loss = trainer.compute_loss(model, dict(batch))
    loss.backward()
    wanted = plain(**batch).loss
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    same_gradients(model, plain)
    model.zero_grad()
    # What it gives the model is what our own samples are woven to.
    for row in range(2):
        ids = processor([talk(row, ANSWERS[row])]).input_ids[0].tolist()
        real = batch["attention_mask"].bool()
        assert any(batch["input_ids"][i][real[i]].tolist() == ids for i in range(2))
    # The trainer divides by all labels, and each row's first is never predicted.
    learned = batch["labels"] != -100
    share = (learned[:, 1:].sum() / learned.sum()).item()
    assert logged(trainer)["loss"] == pytest.approx(wanted.item() * share, rel=1e-5)


def test_dpo(place: Path, processor: Processor, plain: MultimodalLM, tmp_path: Path) -> None:
    rows = [
        {
            "images": [PICTURES[i]],
            "prompt": [said("user", QUESTIONS[i])],
            "chosen": [said("assistant", ANSWERS[i])],
            "rejected": [said("assistant", "no idea, nothing is seen")],
        }
        for i in range(2)
    ]
    trainer = DPOTrainer(
        model=(model := opened(place)),
        args=DPOConfig(**words(tmp_path, max_length=None)),
        train_dataset=Dataset.from_list(rows),
        processing_class=processor,
    )
    batch = batch_of(trainer)
    done = batch.pop("completion_mask")
    labels = batch["input_ids"].masked_fill(done == 0, -100)
    with torch.no_grad():
        found = model(**batch, labels=labels, fused_lm_head=True).log_probs.sum(1)
    known = {}
    for row in range(2):
        for answer in (ANSWERS[row], "no idea, nothing is seen"):
            own = processor([talk(row, answer)])
            ids, likely = row_of(own, plain)
            known[tuple(ids)] = likely[own.labels[0, 1:] != -100].sum()
    for i, real in enumerate(batch["attention_mask"].bool()):
        wanted = known.pop(tuple(batch["input_ids"][i][real].tolist()))
        torch.testing.assert_close(found[i], wanted, atol=1e-3, rtol=1e-4)
    assert not known
    assert logged(trainer)["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_grpo(
    place: Path,
    processor: Processor,
    plain: MultimodalLM,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [{"image": PICTURES[i], "prompt": [said("user", QUESTIONS[i])]} for i in range(2)]
    trainer = GRPOTrainer(
        model=opened(place),
        args=GRPOConfig(
            **words(tmp_path, per_device_train_batch_size=4, beta=0.1),
            num_generations=2,
            max_completion_length=4,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=processor,
        reward_funcs=lambda completions, **_: [float(i) for i, _ in enumerate(completions)],
    )
    scored: list[tuple[Any, ...]] = []
    score = trainer._get_per_token_logps_and_entropies

    def kept(model: Any, ids: Tensor, mask: Tensor, keep: int, **others: Any) -> Any:
        found = score(model, ids, mask, keep, **others)
        scored.append((ids, mask.bool(), keep, found[0].detach()))
        return found

    monkeypatch.setattr(trainer, "_get_per_token_logps_and_entropies", kept)
    assert math.isfinite(logged(trainer)["loss"])
    prompts = [
        processor([Sample(talk(row, "").turns[:1], str(row))], open_answer=True) for row in range(2)
    ]
    seen = set()
    assert scored
    for ids, mask, keep, likely in scored:
        for i in range(4):
            row = ids[i][mask[i]]
            own, which = next(
                (prompt, k)
                for k, prompt in enumerate(prompts)
                if row[: prompt.input_ids.shape[1]].tolist() == prompt.input_ids[0].tolist()
            )
            seen.add(which)
            new = len(row) - own.input_ids.shape[1]
            places = torch.nn.functional.pad(own.item_places, (0, new))
            alone = Batch({"input_ids": row[None], "item_places": places, "items": own["items"]})
            wanted = row_of(alone, plain)[1][-new:]
            torch.testing.assert_close(likely[i, -keep:][:new], wanted, atol=1e-4, rtol=1e-4)
    assert seen == {0, 1}


def test_trainer(place: Path, processor: Processor, plain: MultimodalLM, tmp_path: Path) -> None:
    """Samples are its data, and the processor is what puts them together."""
    samples = [talk(row, ANSWERS[row]) for row in range(2)]
    trainer = Trainer(
        model=opened(place),
        args=TrainingArguments(**words(tmp_path), remove_unused_columns=False),
        train_dataset=samples,
        data_collator=processor,
        processing_class=processor,
    )
    wanted = plain(**processor(samples)).loss.item()
    assert logged(trainer)["loss"] == pytest.approx(wanted, rel=1e-5)
    trainer.save_model(str(tmp_path / "saved"))
    again = MultimodalLM.from_pretrained(tmp_path / "saved")
    learned = trainer.model.state_dict()
    assert all(torch.equal(value, learned[name]) for name, value in again.state_dict().items())
    assert Processor.from_pretrained(tmp_path / "saved").recipe == processor.recipe


def face_of(processor: Processor, answered: bool = True) -> dict[str, Any]:
    """Both rows under the names that others know."""
    talks = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": PICTURES[i]},
                    {"type": "text", "text": QUESTIONS[i]},
                ],
            },
            said("assistant", ANSWERS[i]),
        ]
        for i in range(2)
    ]
    batch = processor.apply_chat_template(
        [talk if answered else talk[:1] for talk in talks],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=not answered,
    )
    return dict(batch)


@pytest.mark.parametrize("dora", [False, True])
def test_lora(
    dora: bool, place: Path, processor: Processor, plain: MultimodalLM, tmp_path: Path
) -> None:
    """Adapters that have learned nothing change nothing, then they alone learn."""
    config = LoraConfig(task_type="CAUSAL_LM", use_dora=dora)
    model = get_peft_model(opened(place), config)
    ends = {name.rpartition(".")[2] for name in model.targeted_module_names}
    assert ends == {"q_proj", "v_proj"}
    samples = [talk(row, ANSWERS[row]) for row in range(2)]
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**words(tmp_path), remove_unused_columns=False),
        train_dataset=samples,
        data_collator=processor,
    )
    wanted = plain(**processor(samples)).loss.item()
    assert logged(trainer)["loss"] == pytest.approx(wanted, rel=1e-5)
    before = plain.state_dict()
    after = model.get_base_model().state_dict()
    names = {name: name.replace(".base_layer", "") for name in after}
    moved = {
        names[k] for k, v in after.items() if not torch.equal(v, before.get(names[k], v * 0 + 7))
    }
    assert moved and all(".lora_" in name for name in moved)


def targeted(model: Any, config: PeftConfig) -> list[str]:
    names: list[str] = get_peft_model(copy.deepcopy(model), config).base_model.targeted_module_names
    return names


@pytest.mark.parametrize("language", ["llama", "phi", "gpt_neox"])
@pytest.mark.parametrize("kind", [LoraConfig, IA3Config])
def test_default_targets_are_those_of_the_language_model(
    kind: type[PeftConfig], language: str
) -> None:
    """Of whatever kind it is, and nothing of a tower whose layers have the same names."""
    model = MultimodalLM.from_recipe(of_language(language))
    assert any(name.startswith("image.") for name in names_of(model, "q_proj"))
    alone = targeted(model.language, kind())
    assert alone
    assert targeted(model, kind()) == [f"language.{name}" for name in alone]


def test_default_targets_of_two_models_stand_apart(plain: MultimodalLM) -> None:
    """What peft was told of one language model is no answer for the next."""
    nano = targeted(plain, LoraConfig())
    with pytest.raises(ValueError, match="specify `target_modules`"):
        targeted(MultimodalLM.from_recipe(of_language("olmo")), LoraConfig())
    assert targeted(plain, LoraConfig()) == nano
    both = get_peft_model(copy.deepcopy(plain), LoraConfig(), mixed=True)
    assert both.base_model.targeted_module_names == nano


def test_adapters_learn_as_in_the_language_model_alone(
    processor: Processor, plain: MultimodalLM
) -> None:
    """The same gradients as those of peft around it, over the rows with the pictures in their places."""
    plain.eval()
    batch = processor([talk(row, ANSWERS[row]) for row in range(2)])
    config = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False)
    whole = get_peft_model(copy.deepcopy(plain), copy.deepcopy(config))
    alone = get_peft_model(copy.deepcopy(plain.language), config)
    lora = {
        name.replace(".model.language.", ".model.", 1): p
        for name, p in whole.named_parameters()
        if p.requires_grad
    }
    alone.load_state_dict(lora, strict=False)
    found = whole(**batch)
    found.loss.backward()
    embeds = plain.embed(batch.input_ids, batch["items"], batch.item_places).detach()
    wanted = alone(
        inputs_embeds=embeds, attention_mask=batch.attention_mask, labels=batch["labels"]
    )
    wanted.loss.backward()
    torch.testing.assert_close(found.loss, wanted.loss)
    theirs = {name: p.grad for name, p in alone.named_parameters() if p.requires_grad}
    assert lora.keys() == theirs.keys() and lora
    for name, p in lora.items():
        torch.testing.assert_close(p.grad, theirs[name], atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_tuned_vectors_stand_in_front_of_pictures(
    kind: type[PeftConfig], place: Path, processor: Processor, plain: MultimodalLM
) -> None:
    """As the language model alone with the same vectors would read the spliced rows."""
    tuned = get_peft_model(opened(place), kind(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    alone = get_peft_model(
        opened(place).language, kind(task_type="CAUSAL_LM", num_virtual_tokens=3)
    ).eval()
    alone.prompt_encoder.load_state_dict(tuned.prompt_encoder.state_dict())
    batch = face_of(processor)
    woven = processor([talk(row, ANSWERS[row]) for row in range(2)])
    mask = batch["attention_mask"]
    embeds = plain.eval().embed(woven.input_ids, woven["items"], woven.item_places)
    wanted = alone(inputs_embeds=embeds, attention_mask=mask).logits
    found = tuned(**batch, labels=batch["input_ids"])
    real = mask.bool()
    length = mask.shape[1]
    torch.testing.assert_close(
        found.logits[:, -length:][real], wanted[:, -length:][real], atol=1e-3, rtol=1e-4
    )
    found.loss.backward()
    (vectors,) = [p for p in tuned.parameters() if p.requires_grad]
    assert vectors.grad is not None and vectors.grad.abs().sum() > 0


LAUNCHED = """
import sys
import omnimix
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments
from omnimix import Media, Sample, Turn

place, out = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(place)
processor = AutoProcessor.from_pretrained(place)
turns = (Turn("user", (Media.image(Image.new("RGB", (40, 30))), "How many?")), Turn("assistant", ("two",)))
words = {"max_steps": 1, "report_to": [], "save_strategy": "no", "logging_steps": 1, "use_cpu": True}
args = TrainingArguments(out, remove_unused_columns=False, **words)
samples = [Sample(turns, str(row)) for row in range(8)]
trainer = Trainer(model, args, data_collator=processor, train_dataset=samples)
trainer.train()
print("processes", args.world_size, "loss", trainer.state.log_history[0]["loss"])
"""


def test_accelerate_launch(place: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(LAUNCHED)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu"]
    launch += ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no"]
    launch += ["--dynamo_backend", "no"]
    done = subprocess.run(
        [*launch, str(script), str(place), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "processes 1 loss" in done.stdout
