"""A modality: branches one after another, encoders inside a branch side by side, one connector each.

    tokens(tile) = frame(seq over branches(connector(arrange(chan over encoders(finish(encoder(tile)))))))
    tokens(item) = concat over tiles

Every family of checkpoints that is read is a setting of that line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field, SerializeAsAny
from torch import Tensor, nn
from torch.nn import functional

from omnimix.compose.item_batch import ItemBatch, bucketed, lent
from omnimix.config import Spec, part
from omnimix.connectors.arrange import Arrange
from omnimix.connectors.base import Connector, ConnectorSpec
from omnimix.encoders.base import EncoderSpec, Features, device_dtype
from omnimix.errors import RecipeError
from omnimix.media.opening import Opener
from omnimix.media.tiles import Step, TensorStep
from omnimix.registry import ARRANGES, CONNECTORS, ENCODERS, OPENERS, STEPS


class BranchSpec(Spec):
    """Encoders whose features stand side by side (channel mix), and their connector.

    Attributes:
        encoders: one or more; all give the same number of tokens, and their widths add up.
        connector: what makes vectors for the language model out of the joined features.
    """

    encoders: tuple[Annotated[SerializeAsAny[EncoderSpec], part(ENCODERS)], ...] = Field(
        min_length=1
    )
    connector: Annotated[SerializeAsAny[ConnectorSpec], part(CONNECTORS)]


class FrameSpec(Spec):
    """Learned vectors before and after the tokens of each tile.

    Attributes:
        start: a vector before each tile; on by default.
        end: a vector after each tile; on by default.
    """

    start: bool = True
    end: bool = True


class ModalitySpec(Spec):
    """Words of a modality in a recipe.

    Attributes:
        opens: which kind of media it takes and within which limits.
        steps: preparation shared by all encoders.
        branches: the sequence mix.
        arrange: how features of several tiles are re-arranged before the connector.
        frame: learned vectors around each tile.
        place: `inline` where the item stands in the turn, `start` right after the begin token, `second`
            right after the first token whatever it is (arXiv:2402.07865); what a turn says around it is joined.
        slots: all items of a sample share one tile of this many places, the rest filled.
        limit: most items one sample may bring; None for any number.
    """

    opens: Annotated[SerializeAsAny[Opener], part(OPENERS)]
    steps: tuple[Annotated[SerializeAsAny[Step], part(STEPS)], ...] = ()
    branches: tuple[BranchSpec, ...] = Field(min_length=1)
    arrange: Annotated[SerializeAsAny[Arrange], part(ARRANGES)] | None = None
    frame: FrameSpec | None = None
    place: Literal["inline", "start", "second"] = "inline"
    slots: int | None = None
    limit: int | None = None

    @property
    def media(self) -> str:
        """What it opens, by its row."""
        return self.opens.kind

    def encoders(self) -> list[EncoderSpec]:
        """All encoders in order of branches."""
        return [encoder for branch in self.branches for encoder in branch.encoders]

    def every(self) -> list[Step]:
        """All steps, whoever takes them."""
        own = [step for encoder in self.encoders() for step in encoder.steps]
        return [*self.opens.every(), *self.steps, *own]

    def groups(self, tiles: int) -> int:
        """How many tiles come out of the re-arrangement of an item of so many tiles."""
        return tiles if self.arrange is None else self.arrange.groups(tiles)

    def source(self) -> str | None:
        """The modality whose feature map its encoders look at."""
        for encoder in self.encoders():
            if encoder.looks_at:
                return str(encoder.source)  # type: ignore[attr-defined]
        return None

    def inputs(self) -> tuple[list[tuple[Step, ...]], list[int]]:
        """What workers prepare: the distinct step lists, and for each encoder the one it reads.

        An encoder's own steps run in the worker up to the last one that works on pictures or on something
        raw; the tensor steps behind it run on the device, so that pictures travel as bytes and encoders
        share them.
        """
        distinct: list[tuple[Step, ...]] = []
        which: list[int] = []
        for encoder in self.encoders():
            steps = encoder.steps[: _worker_steps(encoder)]
            if steps not in distinct:
                distinct.append(steps)
            which.append(distinct.index(steps))
        return distinct, which


def _worker_steps(encoder: EncoderSpec) -> int:
    early = [i for i, step in enumerate(encoder.steps) if step.works_on != "tensor"]
    return early[-1] + 1 if early else 0


@dataclass(frozen=True, eq=False)
class Encoded:
    """What a modality gives for a batch of items.

    Attributes:
        tokens: `[tokens of all items, width]` in order.
        map: feature map of each item's first tile `[items, d, rows, columns]`, where there is a grid.
    """

    tokens: Float[Tensor, "total width"]
    map: Float[Tensor, "items d rows columns"] | None


class Branch(nn.Module):
    """Modules of one branch.

    Attributes:
        spread: shares the tiles out over processes (`omnimix.parallel`); it is given an encoder's work and
            all tiles.
    """

    spread: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor] | None

    def __init__(self, spec: BranchSpec, width: int, source: Features | None) -> None:
        super().__init__()
        self.spread = None
        self.encoders = nn.ModuleList(encoder.build(source) for encoder in spec.encoders)
        self.finishes = nn.ModuleList()
        ends: list[Features] = []
        for encoder, words in zip(self.encoders, spec.encoders, strict=True):
            features: Features = encoder.features  # type: ignore[assignment]
            chain: list[nn.Module] = []
            for finish in words.finish:
                chain.append(finish.build(features))
                features = finish.sizes(features)
            self.finishes.append(nn.Sequential(*chain))
            ends.append(features)
        counts = {features.tokens for features in ends}
        if len(counts) > 1:
            sizes = ", ".join(repr(features) for features in ends)
            raise RecipeError(
                f"encoders of one branch give different numbers of tokens: {sizes}",
                hint="finishing steps (drop_prefix, repeat_cells, prepend_mean) make them equal",
            )
        self.tokens = counts.pop()
        self.width = sum(features.width for features in ends)
        self.connector: Connector = spec.connector.build(self.tokens, self.width, width)
        self.first: Features = self.encoders[0].features  # type: ignore[assignment]
        self.device_steps = [
            [step for step in encoder.steps[_worker_steps(encoder) :]] for encoder in spec.encoders
        ]

    def encode(self, index: int, tiles: Tensor, source: Tensor | None) -> Tensor:
        """Raw features of one encoder `[tiles, n, d]`."""
        if self.spread is None or source is not None:
            return self._encode(index, tiles, source)
        return self.spread(lambda share: self._encode(index, share, None), tiles)

    def _encode(self, index: int, tiles: Tensor, source: Tensor | None) -> Tensor:
        encoder = self.encoders[index]
        for step in self.device_steps[index]:
            assert isinstance(step, TensorStep)
            tiles = step.on_tensor(tiles)
        if tiles.dtype == torch.uint8:  # a recipe without normalisation works on fractions
            tiles = tiles.float() / 255
        if source is not None:
            found: Tensor = encoder(tiles, source)
        else:
            # Ids of a text stay whole numbers.
            found = encoder(tiles.to(device_dtype(encoder)) if tiles.is_floating_point() else tiles)
        return found


class Modality(nn.Module):
    """The modules of one modality; everything it does is in its `ModalitySpec`.

    Attributes:
        keep: is given items and what each encoder gave for them, where that is kept (`omnimix.compose.features`).
    """

    def __init__(self, spec: ModalitySpec, width: int, source: Features | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.which = spec.inputs()[1]
        self.branches = nn.ModuleList(Branch(branch, width, source) for branch in spec.branches)
        self.keep: Callable[[ItemBatch, list[Tensor]], None] | None = None
        self.frame = nn.ParameterDict()
        if spec.frame:
            for side in ("start", "end"):
                if getattr(spec.frame, side):
                    self.frame[side] = nn.Parameter(torch.empty(width).normal_(std=0.02))
        if spec.arrange and len(spec.branches) > 1:
            raise RecipeError("an arrangement of tiles works with a single branch")

    @property
    def tokens_per_tile(self) -> int:
        """Places in the sequence that one tile takes."""
        return sum(b.connector.tokens_out for b in self._branches()) + len(self.frame)

    @property
    def features(self) -> Features:
        """Sizes of the first encoder, which other modalities may look at."""
        return self._branches()[0].first

    def _branches(self) -> list[Branch]:
        return [branch for branch in self.branches if isinstance(branch, Branch)]

    def forward(self, items: ItemBatch, source: Tensor | None = None) -> Encoded:
        """Encode the items of a batch.

        Args:
            items: what the workers prepared.
            source: for encoders that look at another modality, its map for each item.
        """
        if self.keep is not None and not items.encoded:
            items = self._kept(items, self.keep)
        if not items.buckets:
            return self._alike(items, source)
        tokens: dict[int, Tensor] = {}
        maps: dict[int, Tensor] = {}
        for bucket, (rows, alike) in zip(items.buckets, items.alike(), strict=True):
            before = lent.set(bucket.lent)
            done = self._alike(alike, None if source is None else source[list(rows)])
            lent.reset(before)
            sizes = [self.spec.groups(tiles) * self.tokens_per_tile for tiles in alike.tiles]
            tokens |= zip(rows, done.tokens.split(sizes), strict=True)
            if done.map is not None:
                maps |= zip(rows, done.map, strict=True)
        order = range(len(items.tiles))
        return Encoded(
            torch.cat([tokens[row] for row in order]),
            torch.stack([maps[row] for row in order]) if len(maps) == len(order) else None,
        )

    def _alike(self, items: ItemBatch, source: Tensor | None) -> Encoded:
        """Items of one shape, in one call of each encoder."""
        raws: list[Tensor] = []
        outputs: list[Tensor] = []
        for branch in self._branches():
            mixed: list[Tensor] = []
            for i in range(len(branch.encoders)):
                if items.encoded:
                    raws.append(items.inputs[len(raws)])
                else:
                    raws.append(branch.encode(i, items.inputs[self.which[len(raws)]], source))
                mixed.append(branch.finishes[i](raws[-1]))
            features = torch.cat(mixed, dim=-1) if len(mixed) > 1 else mixed[0]
            features, mask = self._arranged(features, items)
            features = features.to(device_dtype(branch.connector))
            outputs.append(branch.connector(features, mask))
        if "start" in self.frame:
            outputs.insert(0, self._side("start", outputs[0].shape[0]))
        if "end" in self.frame:
            outputs.append(self._side("end", outputs[0].shape[0]))
        tokens = torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0]
        return Encoded(tokens.flatten(0, 1), self._map(raws[0], items))

    def _kept(self, items: ItemBatch, keep: Callable[[ItemBatch, list[Tensor]], None]) -> ItemBatch:
        """The features of all items, as if all of them had been kept before.

        The last bits of a number depend on what else is in a call. What is kept shall depend on its item alone, and
        what is made of it not on whether it was there: so each item is encoded by itself, and from there on they go
        together by the shapes of their features.
        """
        found: dict[int, tuple[Tensor, ...]] = {}
        for rows, alike in items.alike() or [(tuple(range(len(items.tiles))), items)]:
            raws = list(alike.inputs)
            if not alike.encoded:
                raws = self._each(alike)
                if alike.cards:
                    keep(alike, raws)
            pieces = zip(*(raw.split(list(alike.tiles)) for raw in raws), strict=True)
            found |= dict(zip(rows, pieces, strict=True))
        buckets = tuple(bucketed([found[row] for row in range(len(items.tiles))]))
        if len(buckets) == 1:
            return replace(items, inputs=buckets[0].inputs, encoded=True, buckets=(), cards=())
        return replace(items, inputs=(), buckets=buckets, cards=())

    def _each(self, items: ItemBatch) -> list[Tensor]:
        """What every encoder gives for items of one shape, one after another."""
        raws: list[Tensor] = []
        for branch in self._branches():
            for i in range(len(branch.encoders)):
                pieces = items.inputs[self.which[len(raws)]].split(list(items.tiles))
                raws.append(torch.cat([branch.encode(i, piece, None) for piece in pieces]))
        return raws

    def _side(self, side: str, tiles: int) -> Tensor:
        vector: Tensor = self.frame[side]
        return vector.expand(tiles, 1, -1)

    def _arranged(self, features: Tensor, items: ItemBatch) -> tuple[Tensor, Tensor | None]:
        if self.spec.arrange is None:
            return features, None
        pieces = features.split(list(items.tiles))
        done = [
            self.spec.arrange(piece, size, grid)
            for piece, size, grid in zip(pieces, items.sizes, items.grids, strict=True)
        ]
        longest = max(mask.shape[1] for _, mask in done)
        filled = [functional.pad(found, (0, 0, 0, longest - found.shape[1])) for found, _ in done]
        masks = [functional.pad(mask, (0, longest - mask.shape[1])) for _, mask in done]
        return torch.cat(filled), torch.cat(masks)

    def _map(self, raw: Tensor, items: ItemBatch) -> Tensor | None:
        sizes = self.features
        if sizes.grid is None or raw.shape[1] != sizes.tokens:
            return None  # no grid, or tiles of another size than the one declared
        if len(set(items.tiles)) == 1:
            firsts = raw[:: items.tiles[0]]
        else:
            starts = torch.tensor([0, *items.tiles[:-1]], device=raw.device).cumsum(0)
            firsts = raw[starts]
        patches = firsts[:, sizes.prefix :]
        return patches.transpose(1, 2).reshape(*patches.shape[:1], -1, *sizes.grid)


def build(specs: dict[str, ModalitySpec], width: int) -> dict[str, Modality]:
    """All modalities of a recipe, in order; a modality may look at an earlier one.

    Raises:
        RecipeError: with the modality's name in front.
    """
    built: dict[str, Modality] = {}
    for name, spec in specs.items():
        wanted = spec.source()
        if wanted is not None and wanted not in built:
            raise RecipeError(
                f"it looks at {wanted!r}, which is no earlier modality",
                where=f"modalities.{name}",
                hint=f"earlier ones are: {', '.join(built) or 'none'}",
            )
        try:
            built[name] = Modality(spec, width, built[wanted].features if wanted else None)
        except RecipeError as error:
            raise error.at(f"modalities.{name}") from None
    return built
