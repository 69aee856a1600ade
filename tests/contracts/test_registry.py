"""Every row of every table keeps its promises; a row without an example fails."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor, nn

from omnimix import registry
from omnimix.encoders.base import Features
from omnimix.errors import RecipeError
from omnimix.media.audio import Sound
from omnimix.media.files import looking_in
from omnimix.media.region import REGION_WIDTH
from omnimix.media.tiles import Step, Tiles
from omnimix.registry import TABLES, Registry
from tests.contracts.examples import EXAMPLES, INPUT_IDS, INPUT_SHAPES, INPUT_SIDE, NO_WORDS

ROWS = [(table, row) for table in TABLES for row in table]
SOURCE = Features(16, 8, (4, 4))


def rows(table: Registry) -> list[Any]:
    """Every example of every row of a table."""
    return [
        pytest.param(row, words, id=f"{row}-{i}")
        for row in table
        for i, words in enumerate(EXAMPLES[table.name].get(row, [None]))
    ]


def spec(table: Registry, row: str, words: dict[str, Any] | None) -> Any:
    assert words is not None, f"{table.name}: {row!r} has no example in tests/contracts/examples.py"
    return table.load(row).model_validate({"kind": row, **words})


@pytest.mark.parametrize(("table", "row"), ROWS, ids=[f"{t.name}-{row}" for t, row in ROWS])
def test_every_row_loads_and_survives_writing(table: Registry, row: str) -> None:
    cls = table.load(row)
    assert cls.__doc__
    assert row in EXAMPLES[table.name], f"{table.name}: {row!r} has no example"
    if table.name in NO_WORDS:
        return
    assert cls.model_fields["kind"].default == row
    for words in EXAMPLES[table.name][row]:
        made = spec(table, row, words)
        assert cls.model_validate(made.dump()) == made
        assert hash(made) == hash(cls.model_validate(made.dump())) if hashable(made) else True


def hashable(made: Any) -> bool:
    return not any(isinstance(value, dict) for value in made.__dict__.values())


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def reborn(build: Any, state: dict[str, Tensor]) -> nn.Module:
    """Built without memory, then filled, as `from_pretrained` does; what is forgotten stays NaN."""
    with torch.device("meta"):
        module: nn.Module = build()
    module.to_empty(device="cpu")
    for buffer in module.buffers():
        buffer.fill_(math.nan if buffer.is_floating_point() else 10**6)
    module.load_state_dict(state)
    for part in module.modules():
        if hasattr(part, "init_non_persistent_buffers"):
            part.init_non_persistent_buffers()
    return module.eval()


@pytest.mark.parametrize(("row", "words"), rows(registry.ENCODERS))
def test_encoders_give_what_they_declare(row: str, words: dict[str, Any] | None) -> None:
    made = spec(registry.ENCODERS, row, words)
    torch.manual_seed(0)
    source = SOURCE if made.looks_at else None
    encoder = made.build(source).eval()
    state = encoder.state_dict()
    again = reborn(lambda: made.build(source), state)
    for tiles in inputs_of(row, made, encoder):
        inputs = [tiles, *([numbers(2, 8, 4, 4)] if made.looks_at else [])]
        with torch.no_grad():
            found = encoder(*inputs)
            assert torch.equal(again(*inputs), found)
        features = encoder.features
        assert found.shape == (2, features.tokens, features.width)
        if features.grid is not None:
            assert features.grid[0] * features.grid[1] + features.prefix == features.tokens
        assert found.isfinite().all()
        assert not torch.equal(found[0], found[1])


def inputs_of(row: str, made: Any, encoder: Any) -> list[Tensor]:
    """Tiles of every kind that an encoder takes, two of each."""
    if row in INPUT_SIDE:
        side = getattr(made, "img_size", INPUT_SIDE[row])
        return [numbers(2, 3, side, side)]
    if row in INPUT_SHAPES or row in INPUT_IDS:
        shapes = INPUT_SHAPES.get(row, [])
        if row == "imagebind":
            shapes = [
                s for s, trunk in zip(shapes, (made.vision, made.audio), strict=True) if trunk
            ]
        if row == "clap":
            shapes = [(4 if made.config.get("enable_fusion") else 1, *shapes[0][1:])]
        found = [numbers(2, *shape) for shape in shapes]
        if row in INPUT_IDS and getattr(made, "text", True) is not None:
            ids = torch.arange(2 * 16).view(2, 16) % INPUT_IDS[row]
            ids[1, 9:] = -1  # a shorter text
            found.append(ids)
        return found
    regions = numbers(2, encoder.features.tokens, REGION_WIDTH).sigmoid()
    regions[..., 0] = torch.arange(2)[:, None] - 1
    return [regions]


@pytest.mark.parametrize("row", [row for row in registry.ENCODERS if row in INPUT_IDS])
def test_what_is_no_token_changes_nothing(row: str) -> None:
    made = spec(registry.ENCODERS, row, EXAMPLES["encoders"][row][0])
    torch.manual_seed(0)
    encoder = made.build().eval()
    ids = torch.tensor([[5, 7, 11, 30, -1, -1]])
    with torch.no_grad():
        torch.testing.assert_close(encoder(ids), encoder(ids[:, :4]))
        assert not torch.equal(encoder(ids), encoder(ids[:, [1, 0, 2, 3]]))


@pytest.mark.parametrize(("row", "words"), rows(registry.FINISHES))
def test_finishes_give_what_they_declare(row: str, words: dict[str, Any] | None) -> None:
    made = spec(registry.FINISHES, row, words)
    before = Features(18, 6, (4, 4), 2) if row == "drop_prefix" else Features(16, 6, (4, 4))
    module = made.build(before).eval()
    features = numbers(3, before.tokens, before.width)
    after = made.sizes(before)
    with torch.no_grad():
        found = module(features)
        assert found.shape == (3, after.tokens, after.width)
        assert torch.equal(reborn(lambda: made.build(before), module.state_dict())(features), found)


@pytest.mark.parametrize(("row", "words"), rows(registry.CONNECTORS))
def test_connectors_give_what_they_declare(row: str, words: dict[str, Any] | None) -> None:
    made = spec(registry.CONNECTORS, row, words)
    torch.manual_seed(0)
    connector = made.build(5, 8, 12).eval()
    features, mask = numbers(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    with torch.no_grad():
        found = connector(features)
        assert found.shape == (2, connector.tokens_out, 12)
        torch.testing.assert_close(connector(features, mask), found)
        again = reborn(lambda: made.build(5, 8, 12), connector.state_dict())
        assert torch.equal(again(features), found)
    connector(features).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in connector.parameters())


@pytest.mark.parametrize(("row", "words"), rows(registry.ARRANGES))
def test_arrangements_only_reorder(row: str, words: dict[str, Any] | None) -> None:
    made = spec(registry.ARRANGES, row, words)
    features = numbers(7, 4, 3)
    found, mask = made(features, (300, 100), (3, 2))
    assert found.shape[0] == made.groups(7) and found.shape[2] == features.shape[2]
    assert mask.shape == found.shape[:2] and mask.dtype == torch.bool
    # 300 x 100 pixels in a map of 6 x 4 features: the first and the last row show nothing.
    seen = {tuple(row) for row in found[mask].tolist()}
    known = {tuple(row) for row in features.flatten(0, 1).tolist()}
    assert seen <= known and len(seen) == 4 + 6 * 2 == int(mask.sum())
    assert {tuple(row) for row in features[0].tolist()} <= seen
    assert mask[0, :4].all()
    single, all_seen = made(features[:1], (9, 9), (0, 0))
    assert made.groups(1) == 1
    assert torch.equal(single, features[:1]) and all_seen.all()


def steps(raw: bool) -> list[Any]:
    """Examples of the steps that work on something raw, or of those that work on pictures."""
    every = rows(registry.STEPS)
    return [p for p in every if (registry.STEPS.load(p.values[0]).works_on == "raw") == raw]


@pytest.mark.parametrize("size", [(64, 64), (50, 20), (7, 33)])
@pytest.mark.parametrize(("row", "words"), steps(raw=False))
def test_steps_are_pure_and_keep_the_frame_true(
    row: str, words: dict[str, Any] | None, size: tuple[int, int]
) -> None:
    made: Step = spec(registry.STEPS, row, words)
    tiles = Tiles.of(Image.effect_noise(size, 80).convert("RGB"))
    if made.works_on == "tensor":
        side = 64
        (resized,) = [picture.resize((side, side)) for picture in tiles.pictures]
        tiles = Tiles((resized,), tiles.size, tiles.frame)
        if row != "normalize":
            tiles = tiles.with_pixels(tiles.tensor() / 255)
    once, twice = made(tiles), made(tiles)
    assert torch.equal(once.tensor(), twice.tensor())
    assert once.size == size and once.frame == twice.frame
    assert once.tensor().ndim == (5 if row == "clip" else 4) and once.tensor().shape[-3] == 3
    assert once.tensor().shape[0] == 1 + once.grid[0] * once.grid[1]
    # The middle stays in the middle to within a pixel, and what is placed comes back.
    u, v = once.frame.place(size[0] / 2, size[1] / 2)
    height, width = once.tensor().shape[-2:]
    assert (u, v) == pytest.approx((0.5, 0.5), abs=1 / min(width, height, *size))
    assert once.frame.back(*once.frame.place(3, 5)) == pytest.approx((3, 5))
    assert once.frame.scale_x > 0 and once.frame.scale_y > 0


@pytest.mark.parametrize(("row", "words"), steps(raw=True))
def test_raw_steps_give_tiles(row: str, words: dict[str, Any] | None, tmp_path: Path) -> None:
    made = spec(registry.STEPS, row, words)
    if row == "tokenize":
        write_tokenizer(tmp_path / made.path)
        things: list[Any] = ["one two three " * 20, "four"]
    else:
        draw = np.random.default_rng(0)
        things = [
            Sound(draw.normal(size=(2, 50_000)).astype(np.float32) / 9, 8000),
            Sound(draw.normal(size=(1, 4000)).astype(np.float32) / 9, 16_000),
        ]
    with looking_in([tmp_path]):
        for thing in things:
            once, twice = made(Tiles.holding(thing)), made(Tiles.holding(thing))
            assert torch.equal(once.tensor(), twice.tensor())
            assert once.raw is None and once.tensor().shape[0] >= 1
            assert once.tensor().isfinite().all()
    with pytest.raises(RecipeError, match=f"the step {row} works on"):
        made(Tiles.holding(7))


def write_tokenizer(path: Path) -> None:
    words = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "one", "two", "three", "four"]
    if path.suffix == ".txt":
        path.write_text("\n".join(words))
        return
    model = WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(path))
