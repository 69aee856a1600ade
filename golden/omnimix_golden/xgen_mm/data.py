"""xGen-MM's cases: data mixing, samplers, paths and marks; no model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omnimix import config
from omnimix.convert.report import Check, same
from omnimix.data import orders
from omnimix.data.length_groups import LengthGroups, grouped
from omnimix.data.sources import Source
from omnimix.families.xgen_mm.records import XgenSft, mapped, repaired
from omnimix_golden.xgen_mm.case import XGenCase

PICTURE = 128
"""Words that a picture counts for where modalities are not kept apart."""


def mixed(reading: XGenCase) -> Iterator[Check]:
    """Which records a data configuration takes, in which order."""
    source = _source(reading)
    found = [record["id"] for record in source.records]
    yield same("mixing", "records", found, reading.case.facts["mixed_order"])


def _source(reading: XGenCase) -> Any:
    words = config.read_yaml(reading.inputs / "data_config.yaml")
    return config.validate(XgenSft, words, "data_config.yaml").open(reading.case.folder)


def lengths(reading: XGenCase) -> Iterator[Check]:
    """Lengths that batches are grouped by."""
    source: Source = _source(reading)
    assert source.length is not None
    extents = [source.extent(i) for i in range(source.length)]
    plain = [words + PICTURE * picture for picture, words in extents]
    yield same("lengths", "of records", plain, reading.case.facts["lengths"])
    signed = [words if picture else -words for picture, words in extents]
    yield same("lengths", "by modality", signed, reading.case.facts.get("modality_lengths", signed))


def grouped_orders(reading: XGenCase) -> Iterator[Check]:
    """The length-grouped order of every rank, two rounds of it."""
    sizes = reading.case.facts["modality_lengths"]
    for setting in reading.case.facts["grouped_sampler"]:
        batch, world = setting["batch_size"], setting["world_size"]
        accumulate = setting["gradient_accumulation_steps"]
        what = f"batch {batch}, {world} ranks, {accumulate} parts"
        seen: set[int] = set()
        for rank in setting["ranks"]:
            number, shared = rank["rank"], rank["global_seed_before"]
            where = f"{what}, rank {number}"
            inner = LengthGroups(sizes, batch, world * accumulate, shared).round()
            yield same("length groups", f"{where}: all", inner, rank["inner_order"])
            for epoch, word in enumerate(("epoch0", "epoch1_without_reseeding")):
                found = grouped(sizes, batch, epoch, shared - number, number, world, accumulate)
                yield same("length groups", f"{where}: round {epoch}", found, rank[word])
                seen |= set(found) if not epoch else set()
        wanted = setting["distinct_samples_seen_by_all_ranks_in_epoch0"]
        yield same("length groups", f"{what}: records seen", len(seen), wanted)


def one_modality(reading: XGenCase) -> Iterator[Check]:
    """The same order where every record has pictures, or none has."""
    for setting in reading.case.facts["one_modality"]:
        sign = -1 if setting["kind"] == "all_text" else 1
        sizes = [sign * abs(size) for size in reading.case.facts["modality_lengths"]]
        yield from _rounds(sizes, setting, setting["kind"])


def no_modality(reading: XGenCase) -> Iterator[Check]:
    """Grouped by length alone."""
    setting = reading.case.facts["length_grouped_no_modality"]
    yield from _rounds(reading.case.facts["lengths"], setting, "length alone")


def _rounds(sizes: list[int], setting: dict[str, Any], what: str) -> Iterator[Check]:
    groups = LengthGroups(sizes, setting["batch_size"], setting["world_size"])
    for epoch in range(2):
        found = groups.round()
        yield same("length groups", f"{what}: round {epoch}", found, setting[f"epoch{epoch}"])


def plain(reading: XGenCase) -> Iterator[Check]:
    """The default sampler."""
    count = len(reading.case.facts["mixed_order"])
    for setting in reading.case.facts["plain_distributed_sampler"]:
        rank, world = setting["rank"], setting["world_size"]
        for epoch, wanted in enumerate(setting["epochs"]):
            found = orders.shuffled(count, epoch, 0, rank, world)
            what = f"rank {rank} of {world}, round {epoch}"
            yield same("shuffled", what, found, wanted)


def paths(reading: XGenCase) -> Iterator[Check]:
    """Where pictures lie."""
    facts = reading.case.facts["path_mapping"]
    folders = dict(facts["mapping"])
    for path, wanted in facts["results"].items():
        yield same("paths", path, mapped(path, folders), wanted)


def marks(reading: XGenCase) -> Iterator[Check]:
    """Records whose marks are put right, or which give way to the next."""
    for case in reading.case.facts["marker_check"]:
        record = case["record"]
        found = repaired(record)
        yield same("marks", f"{record['id']}: kept", found is not None, case["keep"])
        if case["keep"]:
            yield same("marks", str(record["id"]), found, case["after"])
