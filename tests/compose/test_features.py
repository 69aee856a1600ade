"""What frozen encoders gave is kept: the same numbers with and without it, and nothing is opened again."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from omnimix.compose import features, recipe as recipes
from omnimix.compose.batch import Batch
from omnimix.compose.features import FeatureCacheSpec
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.errors import OmnimixError
from omnimix.media.image import ImageOpener
from omnimix.media.video import VideoOpener
from omnimix.types import Box, Media, Sample, Turn
from tests.conftest import TINY


def picture(seed: int) -> Image.Image:
    chance = np.random.default_rng(seed)
    return Image.fromarray(chance.integers(0, 255, (40, 56, 3)).astype(np.uint8))


def sample(*data: Any, id: str = "a") -> Sample:
    asked = [Media.image(one) for one in data]
    region = Media.region(Box(4, 4, 30, 30))
    return Sample((Turn("user", (*asked, "What? ", region)), Turn("assistant", ("red",))), id)


@pytest.fixture
def kept(tmp_path: Path, tiny_model: MultimodalLM, tiny_processor: Processor) -> Any:
    words = FeatureCacheSpec(folder=str(tmp_path / "features"))
    tiny_model.eval()
    features.keep(tiny_model, tiny_processor, words)
    yield tmp_path / "features"
    features.keep(tiny_model, tiny_processor, None)


def logits(model: MultimodalLM, processor: Processor, *samples: Sample) -> tuple[Any, Batch]:
    batch = processor.batch([processor.weave(one) for one in samples])
    with torch.no_grad():
        return model(**batch.inputs(), labels=batch.labels).logits, batch


def files(place: Path) -> list[Path]:
    return sorted(place.rglob("*.safetensors"))


def test_numbers_are_bit_equal_and_nothing_is_opened_again(
    kept: Path, tiny_model: MultimodalLM, tiny_processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [sample(picture(0), picture(1)), sample(picture(2), id="b")]
    features.keep(tiny_model, tiny_processor, None)
    plain, batch = logits(tiny_model, tiny_processor, *samples)
    digests = [tiny_processor.weave(one).digest() for one in samples]
    features.keep(tiny_model, tiny_processor, FeatureCacheSpec(folder=str(kept)))
    cold, batch = logits(tiny_model, tiny_processor, *samples)
    assert not batch["items"]["image"].encoded and len(files(kept)) == 3
    known = [tiny_processor.weave(one).digest() for one in samples]
    monkeypatch.setattr(ImageOpener, "open", None)
    for branch in tiny_model.modality("image").branches:
        monkeypatch.setattr(branch, "encode", None)
    warm, batch = logits(tiny_model, tiny_processor, *samples)
    assert batch["items"]["image"].encoded
    assert torch.equal(cold, warm)
    # Alone or side by side, an encoder's last bits may differ.
    torch.testing.assert_close(cold, plain, atol=2e-4, rtol=1e-4)
    assert [tiny_processor.weave(one).digest() for one in samples] == known != digests


def test_items_that_were_there_stand_beside_new_ones(
    kept: Path, tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    logits(tiny_model, tiny_processor, sample(picture(0)))
    both, batch = logits(tiny_model, tiny_processor, sample(picture(1), picture(0)))
    assert [bucket.encoded for bucket in batch["items"]["image"].buckets] == [False, True]
    assert len(files(kept)) == 2
    warm, _ = logits(tiny_model, tiny_processor, sample(picture(1), picture(0)))
    assert torch.equal(both, warm)
    features.keep(tiny_model, tiny_processor, FeatureCacheSpec(folder=f"{kept}-other"))
    cold, _ = logits(tiny_model, tiny_processor, sample(picture(1), picture(0)))
    assert torch.equal(both, cold)


def test_a_picture_is_known_by_its_content(
    kept: Path, tiny_processor: Processor, tmp_path: Path
) -> None:
    file = tmp_path / "a.png"
    picture(0).save(file)
    cache = tiny_processor.weave.features
    assert cache is not None

    def key(data: Any) -> str | None:
        return cache.key("image", Media.image(data))

    assert (
        key(file)
        == key(str(file))
        == pickle.loads(pickle.dumps(cache)).key("image", Media.image(file))
    )
    assert key(picture(0)) == key(picture(0)) != key(picture(1))
    assert key(np.asarray(picture(0))) is not None
    before = key(file)
    picture(1).save(file)
    assert key(file) != before
    assert key(tmp_path / "missing.png") is None and key("http://a.b/c.png") is None
    stream = io.BytesIO()
    picture(1).save(stream, "PNG")
    assert key(stream.getvalue()) != before
    assert cache.key("region", Media.region(Box(0, 0, 1, 1))) is None


def test_other_weights_keep_other_features(
    kept: Path, tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    logits(tiny_model, tiny_processor, sample(picture(0)))
    other = copy.deepcopy(tiny_model)
    name, weight = next(
        (n, p) for n, p in other.modality("image").named_parameters() if "encoders" in n
    )
    with torch.no_grad():
        weight.add_(1)
    features.keep(other, tiny_processor, FeatureCacheSpec(folder=str(kept)))
    _, batch = logits(other, tiny_processor, sample(picture(0)))
    assert not batch["items"]["image"].encoded and len(files(kept)) == 2, name


def test_another_connector_behind_the_same_encoder_reads_them(
    kept: Path, tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    logits(tiny_model, tiny_processor, sample(picture(0)))
    before = files(kept)
    words = ("modalities.image.branches.0.connector={kind: token_mlp, tokens: 3}",)
    recipe = recipes.load("nano", (*TINY, *words))
    torch.manual_seed(0)
    other, processor = MultimodalLM.from_recipe(recipe).eval(), Processor.from_recipe(recipe)
    other.modality("image").branches[0].encoders.load_state_dict(
        tiny_model.modality("image").branches[0].encoders.state_dict()
    )
    plain, seen = logits(other, processor, sample(picture(0)))
    features.keep(other, processor, FeatureCacheSpec(folder=str(kept)))
    found, batch = logits(other, processor, sample(picture(0)))
    assert batch["items"]["image"].encoded and batch["items"]["image"].tokens == (147,)
    assert seen["items"]["image"].tokens == (147,) and files(kept) == before
    torch.testing.assert_close(found, plain)


@pytest.mark.parametrize("what", ["pillow", "timm"])
def test_other_versions_of_what_prepares_and_encodes_keep_other_features(
    what: str,
    kept: Path,
    tiny_model: MultimodalLM,
    tiny_processor: Processor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits(tiny_model, tiny_processor, sample(picture(0)))
    real = features.version
    monkeypatch.setattr(features, "version", lambda name: "0" if name == what else real(name))
    features.keep(tiny_model, tiny_processor, FeatureCacheSpec(folder=str(kept)))
    _, batch = logits(tiny_model, tiny_processor, sample(picture(0)))
    assert not batch["items"]["image"].encoded


def test_a_damaged_file_is_written_again_and_a_full_folder_takes_no_more(
    kept: Path, tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    plain, _ = logits(tiny_model, tiny_processor, sample(picture(0)))
    (file,) = files(kept)
    file.write_bytes(file.read_bytes()[:50])
    again, batch = logits(tiny_model, tiny_processor, sample(picture(0)))
    assert not batch["items"]["image"].encoded and torch.equal(plain, again)
    told: list[str] = []
    words = FeatureCacheSpec(folder=str(kept), max_size="1KB")
    features.keep(tiny_model, tiny_processor, words, tell=told.append)
    for seed in (1, 2):
        logits(tiny_model, tiny_processor, sample(picture(seed)))
    assert len(files(kept)) == 1 and len(told) == 1 and "is full (max_size)" in told[0]


def test_many_writers_leave_whole_files(
    kept: Path, tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    def write() -> None:
        logits(tiny_model, tiny_processor, *(sample(picture(s), id=str(s)) for s in range(4)))

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(files(kept)) == 4 and not list(kept.rglob(".*"))
    _, batch = logits(tiny_model, tiny_processor, sample(picture(3)))
    assert batch["items"]["image"].encoded


def test_what_learns_or_draws_is_refused(
    tiny_model: MultimodalLM, tiny_processor: Processor, tmp_path: Path
) -> None:
    words = FeatureCacheSpec(folder=str(tmp_path))
    with pytest.raises(OmnimixError, match=r"the encoder of 'image' learns \(branches"):
        features.keep(tiny_model, tiny_processor, words, learns=True)
    with pytest.raises(OmnimixError, match="the recipe has no modality 'smell'"):
        features.chosen(tiny_model.recipe.modalities, FeatureCacheSpec(modalities=("smell",)), "x")
    with pytest.raises(OmnimixError, match="'region' lies on other items"):
        features.chosen(tiny_model.recipe.modalities, FeatureCacheSpec(modalities=("region",)), "x")
    image = tiny_model.recipe.modalities["image"]
    video = image.model_copy(update={"opens": VideoOpener(sampling="window")})
    with pytest.raises(OmnimixError, match=r"prepares items by chance \(video\)"):
        features.chosen({"video": video}, words, "x")
    steady = image.model_copy(update={"opens": VideoOpener(sampling="window", end=9)})
    assert features.chosen({"video": steady}, words, "x") == ["video"]
    assert tiny_processor.weave.features is None
