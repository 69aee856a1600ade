"""Every sense in one conversation: items at their places, batches that change nothing, folders that come back."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from omnimix.compose import weave as weaving
from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.errors import MediaError, SampleError
from omnimix.types import Media, Sample
from tests.compose import senses
from tests.compose.conversations import talk
from tests.compose.senses import document, picture, sound, speech, video, wave
from tests.models import random_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("senses")
    senses.write_words(place)
    return place


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return senses.recipe_of_senses()


@pytest.fixture(scope="module")
def processor(recipe: Recipe, folder: Path) -> Processor:
    return Processor.from_recipe(recipe, folder)


@pytest.fixture(scope="module")
def model(recipe: Recipe) -> MultimodalLM:
    return random_model(recipe)


def mixed() -> list[Sample]:
    """Conversations that hold different senses, some none."""
    return [
        talk(
            (
                Media.image(picture()),
                " and ",
                Media.image(picture(1)),
                "? ",
                speech(),
                video(),
                document(30),
            ),
            "first",
        ),
        talk("Only words.", "second"),
        talk((sound(), "or", Media("imagebind", picture(2)), Media("imagebind", wave(3))), "third"),
        talk(
            (document(2), Media("imagebind", "four three two"), "then"),
            "ok",
            (Media("imagebind", picture(4)), document(60), speech(5), "?"),
            "fourth",
        ),
        talk((Media("imagebind", wave(7)), document(3)), "fifth"),
    ]


def logits(model: MultimodalLM, batch: Batch) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**batch.inputs()).logits
    return found


def test_items_stand_where_they_were_put(recipe: Recipe, processor: Processor) -> None:
    woven = processor.weave(mixed()[0])
    names = ["text", *recipe.modalities]
    runs = [
        names[k] for k, before in zip(woven.owner, [-1, *woven.owner], strict=False) if k != before
    ]
    assert [name for name in runs if name != "text"] == [
        "image",
        "image",
        "speech",
        "video",
        "document",
    ]
    counts = {name: int((woven.owner == k).sum()) for k, name in enumerate(names)}
    assert counts["image"] == 4 and counts["speech"] == 3 and counts["video"] == 3
    assert counts["document"] == 4  # one chunk of up to 512 tokens


@pytest.mark.parametrize("pack", [False, True])
def test_a_mixed_batch_equals_one_at_a_time(
    pack: bool, model: MultimodalLM, processor: Processor
) -> None:
    woven = [processor.weave(sample) for sample in mixed()]
    batch = processor.batch(woven, pack=pack)
    assert {name: len(items.buckets) for name, items in batch["items"].items()} == {
        **{"image": 0, "speech": 0, "sound": 0, "video": 0},
        **{"document": 3, "imagebind": 3},
    }
    together = logits(model, batch)
    rows = together[0].split([len(s) for s in woven]) if pack else together
    for row, sequence in zip(rows, woven, strict=True):
        wanted = logits(model, processor.batch([sequence]))[0]
        torch.testing.assert_close(row[: len(sequence)], wanted, atol=2e-5, rtol=1e-4)


def test_each_sense_is_seen(model: MultimodalLM, processor: Processor) -> None:
    pairs = [
        (Media.image(picture()), Media.image(picture(1))),
        (speech(), speech(1)),
        (sound(), sound(1)),
        (video(), video(5)),
        (document(3), Media.document("four four four")),
        *((Media("imagebind", one), Media("imagebind", other)) for one, other in IMAGEBINDS),
    ]
    for one, other in pairs:
        answers = [
            logits(model, processor(talk((media, "What?"), "It.")))[0, -1] for media in (one, other)
        ]
        assert (answers[0] - answers[1]).abs().max() > 1e-3, one.kind


IMAGEBINDS = [(picture(), picture(1)), (wave(), wave(1)), ("one two", "two one")]


def test_a_folder_comes_back(model: MultimodalLM, processor: Processor, tmp_path: Path) -> None:
    place = tmp_path / "model"
    model.save_pretrained(place)
    processor.save_pretrained(place)
    assert (place / "words.json").is_file()
    again = MultimodalLM.from_pretrained(place).eval()
    reread = Processor.from_pretrained(place)
    for sample in mixed():
        found, wanted = logits(again, reread(sample)), logits(model, processor(sample))
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)
    assert list(again.recipe.modalities) == list(model.recipe.modalities)
    buffers = dict(again.named_buffers())
    assert all(torch.equal(buffers[name], own) for name, own in model.named_buffers())


def test_kinds_find_their_modality(recipe: Recipe) -> None:
    wanted = {"image": "image", "audio": "speech", "sound": "sound", "document": "document"}
    assert {kind: recipe.modality_for(kind) for kind in wanted} == wanted
    assert recipe.modality_for("imagebind") == "imagebind" and recipe.modality_for("smell") is None


def test_what_is_refused(processor: Processor) -> None:
    with pytest.raises(SampleError, match=r"no place for an item of kind 'smell'.*audio"):
        processor.weave(talk((Media("smell", b""), "?"), "a"))
    with pytest.raises(MediaError, match="never fetches"):
        processor.weave(talk((Media("imagebind", "https://example.org/a.png"), "?"), "a"))
    with pytest.raises(
        MediaError, match=r"talk: film: .*kind 'video'. It takes image, audio, document"
    ):
        processor.weave(
            talk((Media("imagebind", b"\x00\x00\x00\x18ftypmp42", label="film"), "?"), "a")
        )


def test_gradients_reach_every_part(recipe: Recipe, processor: Processor) -> None:
    torch.manual_seed(0)
    model = MultimodalLM.from_recipe(recipe)
    batch = processor(mixed())
    model(**batch.inputs(), labels=batch.labels).loss.backward()
    for name in recipe.modalities:
        connector = model.modality(name).branches[0].connector
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in connector.parameters()), (
            name
        )


def test_items_prepared_side_by_side_are_the_same(processor: Processor) -> None:
    samples = mixed()
    alone = [processor.weave(sample) for sample in samples]
    together = processor.weave.many(samples, threads=4)
    for one, other in zip(alone, together, strict=True):
        assert one.ids.tolist() == other.ids.tolist() and one.owner.tolist() == other.owner.tolist()
        for name, items in one.items.items():
            pairs = zip(items, other.items[name], strict=True)
            assert all(
                torch.equal(a, b)
                for mine, theirs in pairs
                for a, b in zip(mine.inputs, theirs.inputs, strict=True)
            )
    broken = talk((Media("speech", b"", label="question.wav"), "?"), "a")
    with pytest.raises(MediaError, match=r"talk: question.wav: the file is empty"):
        processor.weave.many([*samples, broken], threads=4)


def test_preparation_runs_side_by_side(
    processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two items wait for each other: one thread alone would never get past the first."""
    meet = threading.Barrier(2, timeout=60)
    prepare = weaving.prepare
    monkeypatch.setattr(weaving, "prepare", lambda *words: (meet.wait(), prepare(*words))[1])
    woven = processor.weave.many(
        [talk((speech(), "?"), "a"), talk((speech(1), "?"), "b")], threads=2
    )
    assert len(woven) == 2
