"""One HTML page that needs nothing else: what was found, and chosen rows as the model sees them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence as Many
from html import escape

import numpy as np
import torch
from PIL import Image

from omnimix.compose.pointing import which
from omnimix.compose.sequence import Item, Sequence
from omnimix.compose.spans import spans
from omnimix.data.check.rows import Checker, Fault
from omnimix.data.check.survey import Survey
from omnimix.errors import OmnimixError
from omnimix.media.drawing import draw
from omnimix.media.opening import MediaOpener
from omnimix.types import Media, Sample

SHOWN = 8
"""Rows of a dataset that are shown as the model sees them."""

LISTED = 300
"""Rows with faults that the page lists; the report has all."""

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--learned:#1a7f37;--item:#8250df;--bad:#cf222e;--bar:#4184e4}
body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem}
h1,h2,h3{line-height:1.2}table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
.num{text-align:right;font-variant-numeric:tabular-nums}.bad{color:var(--bad)}.dim{opacity:.7}
.row{border:1px solid var(--line);border-radius:8px;padding:1rem;margin:1rem 0}
.pictures{display:flex;gap:1rem;flex-wrap:wrap;align-items:flex-start}
figure{margin:0}figcaption{font-size:13px;opacity:.7}img{display:block;max-width:100%;border-radius:4px}
.tiles{display:flex;gap:4px;flex-wrap:wrap}.tiles img{width:112px}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.6 ui-monospace,monospace;margin:1rem 0 0}
.learned{color:var(--learned);font-weight:600}.item{color:var(--item);font-weight:600}
svg{display:block;width:100%;max-width:800px}svg text{font:12px system-ui,sans-serif;fill:currentColor}
.places td:first-child{white-space:nowrap}.numbers{width:auto;min-width:20rem}.pictures{margin-top:.6rem}.row p{margin:.3rem 0 0}
@media(prefers-color-scheme:dark){:root{--learned:#3fb950;--item:#b794f6;--bad:#ff7b72}}
"""


def page(found: Many[tuple[Survey, Checker]]) -> str:
    """The page over all datasets that were checked."""
    body = "".join(_dataset(survey, check) for survey, check in found)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Datasets checked</title><style>{_STYLE}</style></head>"
        f"<body><h1>Datasets checked</h1>{body}</body></html>\n"
    )


def _dataset(survey: Survey, check: Checker) -> str:
    wrong = {row.index: row.faults for row in survey.failed}
    return "".join(
        (
            f"<section><h2>{_text(survey.name)}</h2>",
            _numbers(survey),
            _faults(survey),
            "<h3>Tokens of a row</h3>" + histogram(survey.tokens, survey.context),
            "<h3>Rows as the model sees them</h3>",
            '<p>What is learned is <span class="learned">green</span>, items are '
            '<span class="item">violet</span> with the number of their tokens.</p>',
            *(_row(check, index, wrong.get(index, ())) for index in chosen(survey)),
            "</section>",
        )
    )


def _text(value: object) -> str:
    """Text of a dataset, whatever it holds, as HTML."""
    plain = str(value).encode("utf-8", "backslashreplace").decode("utf-8")
    return escape(plain.replace("\0", "\u2400"))


def _numbers(survey: Survey) -> str:
    data = survey.data()
    cells = [
        ("rows", f"{survey.rows:,}"),
        ("rows with faults", f"{len(survey.failed):,}"),
        ("tokens", f"{data['tokens'].get('sum', 0):,}"),
        ("of them learned", f"{data['learned'].get('sum', 0):,}"),
        ("tokens of the longest row", f"{data['tokens'].get('most', 0):,}"),
        *((f"items of {name}", f"{count:,}") for name, count in survey.items.items()),
        ("tiles", f"{survey.tiles:,}"),
        ("rows a second", f"{data['rows_per_second']:,}"),
    ]
    rows = "".join(f'<tr><th>{_text(n)}</th><td class="num">{v}</td></tr>' for n, v in cells)
    return f'<table class="numbers">{rows}</table>'


def _faults(survey: Survey) -> str:
    lines = [f'<p class="bad">{_text(said)}</p>' for said in survey.style]
    lines += [f"<p>{count:,} rows: {_text(note)}</p>" for note, count in survey.notes.items()]
    if survey.failed:
        counts = ", ".join(f"{n:,} x {_text(code)}" for code, n in survey.codes.most_common())
        rows = "".join(
            f"<tr><td>{_text(row.where)}</td><td>{_id(row.id, row.where)}</td><td>{_text(fault.code)}</td>"
            f"<td>{_text(fault.said.removeprefix(f'{row.where}: '))}</td></tr>"
            for row in survey.failed[:LISTED]
            for fault in row.faults
        )
        more = len(survey.failed) - LISTED
        lines.append(
            f"<h3>Faults</h3><p>{counts}</p><table class='places'><tr><th>row</th><th>id</th><th>fault</th>"
            f"<th>what is wrong</th></tr>{rows}</table>"
        )
        if more > 0:
            lines.append(f'<p class="dim">{more:,} more rows stand in report.json.</p>')
    return "".join(lines)


def _id(name: str, where: str) -> str:
    """What a row calls itself; one without a name goes by its place, which stands there already."""
    return "" if name == where else _text(name)


def histogram(numbers: Many[int], limit: int | None, bars: int = 40) -> str:
    """Bars over the lengths, as SVG; the limit is a line where it is near, and the last bar holds what is far out."""
    if not len(numbers):
        return '<p class="dim">no row could be woven</p>'
    values = np.asarray(numbers)
    longest = max(int(values.max()), 1)
    most = min(longest, max(int(4 * np.quantile(values, 0.95)), 1))
    right = max(most, limit) if limit is not None and limit < 2 * most else most
    counts, edges = np.histogram(values.clip(max=right), bins=bars, range=(0, right))
    edges[-1] = max(longest, right)
    width, height, top = 800, 160, max(int(counts.max()), 1)
    step = width / bars
    drawn = "".join(
        f'<rect x="{i * step + 1:.1f}" y="{height - n / top * height:.1f}" width="{step - 2:.1f}" '
        f'height="{n / top * height:.1f}" fill="var(--bar)"><title>{edges[i]:.0f} to {edges[i + 1]:.0f} '
        f"tokens: {n} rows</title></rect>"
        for i, n in enumerate(counts)
        if n
    )
    line = ""
    if limit is not None and limit <= right:
        x = limit / right * width
        line = (
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}" stroke="var(--bad)" '
            f'stroke-width="2"/><text x="{x - 4:.1f}" y="12" text-anchor="end">context {limit}</text>'
        )
    return (
        f'<svg viewBox="0 0 {width} {height + 20}" role="img" aria-label="tokens of a row">{drawn}{line}'
        f'<text x="0" y="{height + 16}">0</text><text x="{width}" y="{height + 16}" '
        f'text-anchor="end">{right}{f" and more, at most {longest}" if longest > right else ""} tokens</text>'
        f'<text x="{width / 2}" y="{height + 16}" text-anchor="middle">{top:,} rows in the highest bar</text></svg>'
    )


def chosen(survey: Survey) -> list[int]:
    """Rows to show: some with a fault that can be shown, and from the shortest to the longest."""
    if not survey.places:
        return []
    order = np.argsort(np.asarray(survey.tokens), kind="stable")
    ranks = np.linspace(0, len(order) - 1, min(SHOWN, len(order))).round().astype(int)
    faulty = [row.index for row in survey.failed if row.tokens][: SHOWN // 2]
    return sorted({*faulty, *(survey.places[int(order[rank])] for rank in ranks)})


def _row(check: Checker, index: int, faults: Many[Fault]) -> str:
    where = f"row {index + 1}"
    try:
        where = check.source.where(index)
        sample = check.source[index]
        sequence = check.woven(sample)
    except OmnimixError as error:
        return f'<div class="row"><b>{_text(where)}</b><p class="bad">{_text(error.sentence())}</p></div>'
    words = "".join(
        f'<span class="{span.kind}">{_text(span.text)}</span>'
        for span in spans(check.processor, sequence)
    )
    bad = "".join(f'<p class="bad">{_text(fault.said)}</p>' for fault in faults)
    sizes = f"{len(sequence)} tokens, {sequence.targets} of them learned"
    called = _id(sample.id, where)
    return (
        f'<div class="row"><b>{_text(where)}</b> <span class="dim">{called and f"{called}: "}{sizes}</span>{bad}'
        f'<div class="pictures">{"".join(_pictures(check, sample))}{"".join(_tiles(sequence))}</div>'
        f"<pre>{words}</pre></div>"
    )


def _pictures(check: Checker, sample: Sample) -> Iterator[str]:
    """Every picture with the regions that lie on it."""
    recipe = check.processor.recipe
    name = recipe.modality_for("image")
    opens = recipe.modalities[name].opens if name else None
    pictures: list[Media] = []
    on: dict[int, list[Media]] = {}
    for media in sample.media():
        if media.kind == "image":
            pictures.append(media)
        elif media.kind == "region" and pictures:
            on.setdefault(which(media, len(pictures)), []).append(media)
    for number, media in enumerate(pictures):
        if not isinstance(opens, MediaOpener):
            return
        opened = opens.once(media)
        regions = [region.data for region in on.get(number, ())]
        size = f"{opened.width} x {opened.height}"
        shown = draw(opened, regions) if regions else opened
        told = f"{size}, {len(regions)} region{'s' if regions[1:] else ''}" if regions else size
        yield f"<figure>{_img(_small(shown, 360), told)}<figcaption>{told}</figcaption></figure>"


def _tiles(sequence: Sequence) -> Iterator[str]:
    for name, items in sequence.items.items():
        for number, item in enumerate(items, 1):
            tiles = list(tiles_of(item))
            if tiles:
                shown = "".join(
                    _img(_small(tile, 224), f"tile {i}") for i, tile in enumerate(tiles, 1)
                )
                told = f"{_text(name)} {number}: {item.tiles} {'tile' if item.tiles == 1 else 'tiles'}, {item.tokens} tokens"
                yield f'<figure><div class="tiles">{shown}</div><figcaption>{told}</figcaption></figure>'


def tiles_of(item: Item, most: int = 9) -> Iterator[Image.Image]:
    """The first tiles of a prepared picture or video as pictures; nothing of what is none."""
    pixels = item.inputs[0]
    if pixels.ndim == 5:  # frames of a clip
        pixels = pixels.flatten(0, 1) if pixels.shape[2] == 3 else pixels[:0]
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        return
    for tile in pixels[:most]:
        if tile.dtype != torch.uint8:  # normalised: shown between its darkest and its brightest
            low, high = tile.min(), tile.max()
            tile = ((tile - low) / (high - low).clamp(min=1e-6) * 255).to(torch.uint8)
        yield Image.fromarray(tile.permute(1, 2, 0).contiguous().numpy())


def _small(picture: Image.Image, most: int) -> Image.Image:
    small = picture.copy()
    small.thumbnail((most, most))
    return small


def _img(picture: Image.Image, alt: str) -> str:
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=85)
    content = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{content}" alt="{escape(alt)}">'
