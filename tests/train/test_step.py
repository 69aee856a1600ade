"""One step: parts of a batch add up to the whole, what is no direction moves nothing, and what is reported is so."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from PIL import Image

from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.errors import TrainError
from omnimix.train import optim
from omnimix.train.settings import Stage
from omnimix.train.step import NothingLearned, Stepped, optimizer_step, quick_bf16
from omnimix.types import Box, Media, Part, Sample, Turn


def talk(name: str, answer: str, *asked: Part) -> Sample:
    return Sample((Turn("user", (*asked, "What?")), Turn("assistant", (answer,))), name)


def picture(seed: int) -> Media:
    return Media.image(Image.effect_noise((32, 32), 40 + seed).convert("RGB"))


@pytest.fixture
def tiny_model(tiny_model: MultimodalLM) -> MultimodalLM:
    """A copy: what learns here is what others ask."""
    return copy.deepcopy(tiny_model)


def stage(**words: Any) -> Stage:
    plain = {"mixture": [{"data": "scenes"}], "max_steps": 4, "bf16": False}
    return Stage.model_validate(plain | words)


SHORT, LONG = "A cup.", "Two red cups and a very small green bowl on the table."
RECORDS = {
    "text alone": [talk("a", SHORT), talk("b", LONG)],
    "pictures": [talk("a", SHORT, picture(1)), talk("b", LONG, picture(2))],
    "a picture in one": [talk("a", SHORT, picture(1)), talk("b", LONG)],
    "regions": [talk("a", SHORT, picture(1), Media.region(Box(2, 2, 20, 20))), talk("b", LONG)],
    "four lengths": [talk(str(i), "cup " * (1 + 3 * i), picture(i)) for i in range(4)],
    "several pictures": [talk("a", LONG, picture(1), picture(2)), talk("b", SHORT, picture(3))],
}
CUTS: list[tuple[str, tuple[int, ...], bool]] = [
    *[(name, (1, 1), pack) for name in list(RECORDS)[:4] for pack in (False, True)],
    *[("four lengths", cut, False) for cut in ((1, 1, 1, 1), (1, 3), (2, 2), (3, 1))],
    *[("four lengths", (2, 2), True), ("several pictures", (1, 1), True)],
]


def stepped(
    model: MultimodalLM, batches: Sequence[Batch | None], **words: Any
) -> tuple[Stepped, dict[str, torch.Tensor]]:
    """What one step says, and the gradients that it looked at; the weights are put back."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optim.set_trainable(
        model, ["connectors", "language"]
    )  # batch norms of a trunk that learns see their part alone
    model.train()
    chosen = stage(**words)
    optimizer = optim.optimizer(model, chosen.optimizer)
    seen: dict[str, torch.Tensor] = {}

    def look() -> None:
        grads = {n: p.grad for n, p in model.named_parameters()}
        seen.update({name: grad.clone() for name, grad in grads.items() if grad is not None})

    try:
        return optimizer_step(model, optimizer, chosen, 0, 4, batches, look=look), seen
    finally:
        model.load_state_dict(state)
        model.eval()


@pytest.mark.parametrize(("name", "cut", "pack"), CUTS)
def test_parts_of_a_batch_add_up_to_the_whole(
    name: str,
    cut: tuple[int, ...],
    pack: bool,
    tiny_model: MultimodalLM,
    tiny_processor: Processor,
) -> None:
    records = RECORDS[name]
    woven = [tiny_processor.weave(record) for record in records]
    whole, grads = stepped(tiny_model, [tiny_processor.batch(woven, pack=pack)])
    ends = [sum(cut[: i + 1]) for i in range(len(cut))]
    parts = [
        tiny_processor.batch(woven[end - size : end], pack=pack)
        for end, size in zip(ends, cut, strict=True)
    ]
    told, others = stepped(tiny_model, parts)
    torch.testing.assert_close(told.loss, whole.loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(told.norm, whole.norm, rtol=1e-3, atol=1e-5)
    assert grads.keys() == others.keys()
    for weight, grad in grads.items():
        torch.testing.assert_close(others[weight], grad, rtol=1e-3, atol=1e-4)
    assert (
        (told.samples, told.targets)
        == (whole.samples, whole.targets)
        == (
            len(records),
            whole.targets,
        )
    )
    assert whole.targets == sum(int((one.labels >= 0).sum()) for one in woven)
    assert len(told.parts) == len(cut) and len(told.norms) == 1


def test_a_part_that_is_not_there_changes_nothing(
    tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    batch = tiny_processor(RECORDS["pictures"])
    alone, _ = stepped(tiny_model, [batch])
    beside, _ = stepped(tiny_model, [None, batch, None])
    assert torch.equal(alone.loss, beside.loss) and torch.equal(alone.norm, beside.norm)
    assert [float(part) for part in beside.parts[::2]] == [0.0, 0.0]
    # Each part says the mean over its own targets.
    torch.testing.assert_close(beside.parts[1], alone.loss)
    assert (beside.samples, beside.targets, beside.touched) == (2, alone.targets, alone.touched)
    assert alone.touched > 5


def test_parts_report_their_own_mean(tiny_model: MultimodalLM, tiny_processor: Processor) -> None:
    batches = [tiny_processor([record]) for record in RECORDS["text alone"]]
    both, _ = stepped(tiny_model, batches)
    for batch, part in zip(batches, both.parts, strict=True):
        torch.testing.assert_close(stepped(tiny_model, [batch])[0].loss, part)


def test_a_step_without_a_learned_token_names_its_records(
    tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    asked = [Sample((Turn("user", ("What?",)),), f"r{i}") for i in range(5)]
    batch = tiny_processor.batch([tiny_processor.weave(one, open_answer=True) for one in asked])
    with pytest.raises(NothingLearned, match=r"step 1 has no learned token") as caught:
        stepped(tiny_model, [None, batch])
    assert caught.value.where == "records r0, r1, r2 ..."
    batch = tiny_processor.batch([tiny_processor.weave(one, open_answer=True) for one in asked[:3]])
    with pytest.raises(NothingLearned) as caught:
        stepped(tiny_model, [batch])
    assert caught.value.where == "records r0, r1, r2"


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 0.0])
def test_what_is_no_direction_moves_nothing(
    factor: float,
    tiny_model: MultimodalLM,
    tiny_processor: Processor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = tiny_processor(RECORDS["text alone"])
    chosen = stage()
    objective = type(chosen.objective)
    plain = objective.loss
    monkeypatch.setattr(
        objective, "loss", lambda self, *words: plain(self, *words) * factor + (factor == 0) * 5
    )
    optim.set_trainable(tiny_model, ["*"])
    optimizer = optim.optimizer(tiny_model, chosen.optimizer)
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    said = "gradient of step 3 is 0.0" if factor == 0 else "loss of step 3 is (nan|inf)"
    with pytest.raises(TrainError, match=said) as caught:
        optimizer_step(tiny_model, optimizer, chosen, 2, 4, [batch])
    assert caught.value.where == "records a, b"
    assert all(torch.equal(before[n], t) for n, t in tiny_model.state_dict().items())
    assert all(p.grad is None for p in tiny_model.parameters())


def test_nothing_lost_is_no_fault(
    tiny_model: MultimodalLM, tiny_processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gradient of zeros where the loss is zero too: there is nothing left to learn."""
    objective = type(stage().objective)
    plain = objective.loss
    monkeypatch.setattr(objective, "loss", lambda self, *words: plain(self, *words) * 0)
    done, _ = stepped(tiny_model, [tiny_processor(RECORDS["text alone"])])
    assert float(done.loss) == float(done.norm) == 0


def test_groups_learn_at_their_multiple_of_the_rate(
    tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    chosen = stage(optimizer={"lr": 0.5}, schedule={"warmup_steps": 4})
    optim.set_trainable(tiny_model, ["*"])
    optimizer = optim.optimizer(tiny_model, chosen.optimizer)
    optimizer.param_groups[0]["factor"] = 0.5
    state = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    batch = tiny_processor(RECORDS["text alone"])
    done = optimizer_step(tiny_model, optimizer, chosen, 1, 8, [batch])
    tiny_model.load_state_dict(state)
    assert done.rate == pytest.approx(0.25)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([0.125, *[0.25] * (len(rates) - 1)])


def test_half_precision_is_quick_on_few_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(quick_bf16(torch.device("cpu")), bool)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    assert quick_bf16(torch.device("cuda"))
