# SPDX-License-Identifier: MIT
"""Influence over position, as HTML: a curve of one layer, and every layer as a heat map."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Callable, Sequence

from markupsafe import Markup

from guide_ext.influence.record import Record
from guide_ext.report.document import joined, markup
from guide_ext.report.influence.parts import DIFFERENCE

HEAT, COOL = (240, 140, 0), (64, 150, 255)  # in influence.css too
_WIDTH, _HEIGHT = 1000, 200  # of the curve's own coordinates
_DENSE = 600  # a curve over more tokens than this gets a thinner line


def positions(record: Record) -> Markup:
    """Return the section that shows Influence over position: curve and heat maps."""
    maps = [_run_map(record, index) for index in range(len(record.runs))]
    if record.is_compared:
        maps.append(_difference_map(record))
    return markup(
        """<section aria-labelledby="places"><h2 id="places">Along the text</h2>
<div class="plots">{}{}
<div class="gutter"></div><div class="axis" aria-hidden="true">
<span style="width:{:.3f}%">prompt</span><span>answer</span></div></div></section>""",
        _curve(record),
        joined(maps),
        100 * record.prompt_tokens / record.longest,
    )


def _slider(record: Record, label: str) -> Markup:
    return markup(
        'class="plot" role="slider" tabindex="0" aria-label="{}" aria-valuemin="0" '
        'aria-valuemax="{}" aria-valuenow="0" aria-valuetext="token 0"',
        label,
        record.longest - 1,
    )


def _curve(record: Record) -> Markup:
    top = record.top(0, record.layers)
    bands = joined(
        markup(
            '<rect class="band" x="{:.2f}" y="0" height="{}" width="{:.2f}"/>',
            _x(record, start),
            _HEIGHT,
            _x(record, end) - _x(record, start),
        )
        for start, end in record.ranges(0)
    )
    lines = joined(
        markup(
            '<path class="{} only-values" data-run="{}" d="{}"/>',
            run.name,
            index,
            _path(record, run.values[0][-1], top),
        )
        for index, run in enumerate(record.runs)
    )
    keys = joined(
        markup('<span class="key {} only-values">{}</span>', run.name, run.label)
        for run in record.runs
    )
    if record.is_compared:
        lines += markup('<path class="difference only-difference" id="difference" d=""/>')
        keys += markup('<span class="key difference only-difference">{}</span>', DIFFERENCE)
    return markup(
        """<div class="gutter"></div>
<div class="keys">{keys}<span class="key band">the group itself</span></div>
<div class="gutter scale" aria-hidden="true"><span id="curve-top">{top:g}</span>
<span id="curve-middle" class="only-difference">0</span><span id="curve-bottom">0</span></div>
<div {slider}>
<svg{dense} viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true">
<g id="bands">{bands}</g><line class="grid" x1="0" x2="{width}" y1="{half}" y2="{half}"/>
<line class="border" x1="{border:.2f}" x2="{border:.2f}" y1="0" y2="{height}"/>{lines}</svg>
<div class="cursor"></div></div>""",
        keys=keys,
        top=top,
        slider=_slider(record, "Curve of Influence over position"),
        dense=markup(' class="dense"') if record.longest > _DENSE else markup(""),
        bands=bands,
        half=_HEIGHT // 2,
        border=_x(record, record.prompt_tokens),
        lines=lines,
        width=_WIDTH,
        height=_HEIGHT,
    )


def _x(record: Record, token: float) -> float:
    return _WIDTH * token / record.longest


def _path(record: Record, values: Sequence[float | None], top: float) -> str:
    """Return the line through the measured tokens."""
    points = [
        f"{_x(record, token + 0.5):.2f} {_HEIGHT * (1 - min(1.0, value / top)):.2f}"
        for token, value in enumerate(values)
        if value is not None
    ]
    return "M" + "L".join(points) if points else ""


def _run_map(record: Record, index: int) -> Markup:
    run = record.runs[index]

    def values(group: int, level: int, token: int) -> float | None:
        return run.values[group][level][token] if token < len(run.tokens) else None

    return _heat_map(
        record,
        markup("part only-values {}", run.name),
        markup('<span class="key {}">{}: every layer</span>', run.name, run.label),
        f"Heat map of every layer over position, {run.label}",
        [_picture(record, values, group, record.top(group)) for group in _groups(record)],
        ["0", f"{record.top(0) / 4:g}", f"{record.top(0):g}"],
    )


def _difference_map(record: Record) -> Markup:
    return _heat_map(
        record,
        markup("only-difference difference"),
        markup('<span class="key difference">{}: every layer</span>', DIFFERENCE),
        f"Heat map of every layer over position, {DIFFERENCE}",
        [
            _picture(record, record.difference, group, record.difference_top(group))
            for group in _groups(record)
        ],
        [f"−{record.difference_top(0):g}", "0", f"+{record.difference_top(0):g}"],
    )


def _groups(record: Record) -> range:
    return range(len(record.groups))


def _heat_map(
    record: Record,
    classes: Markup,
    key: Markup,
    label: str,
    pictures: Sequence[str],
    scale: Sequence[str],
) -> Markup:
    images = joined(
        markup(
            '<img alt="" data-group="{}"{} src="{}">',
            group,
            markup(" hidden") if group else markup(""),
            picture,
        )
        for group, picture in enumerate(pictures)
    )
    ends = [markup('<span class="map-scale">{}</span>', end) for end in scale]
    return markup(
        """<div class="map {classes}"><div class="gutter"></div><div class="keys">{key}
<span class="legend"><span class="visually-hidden">Colours: </span>{low}<span class="ramp low">
</span>{middle}<span class="ramp high"></span>{high}</span></div>
<div class="gutter scale" aria-hidden="true"><span>layer {layers}</span><span>0</span></div>
<div {slider} data-levels style="height:{height:.1f}rem">{images}
<div class="level"></div><div class="cursor"></div></div></div>""",
        classes=classes,
        key=key,
        low=ends[0],
        middle=ends[1],
        high=ends[2],
        layers=record.layers,
        slider=_slider(record, label),
        height=max(4.0, min(13.0, 0.9 * (record.layers + 1))) + 1.5,
        images=images,
    )


def _picture(
    record: Record, values: Callable[[int, int, int], float | None], group: int, top: float
) -> str:
    """Return a heat map as a PNG in a data URI: levels by tokens, with the last level on top.

    Opacity grows with the square root of the value, so that layers of 0.02 can be seen next to
    layers of 0.5. It is a picture because 32 layers of 4000 tokens are 128,000 cells: few bytes as
    pixels, but more elements than a browser can handle.
    """
    rows = bytearray()
    for level in reversed(range(record.layers + 1)):
        rows.append(0)  # no filter
        for token in range(record.longest):
            value = values(group, level, token) or 0.0
            strength = math.sqrt(min(1.0, abs(value) / top))
            rows += bytes((*(COOL if value < 0 else HEAT), round(255 * strength)))
    head = struct.pack(">IIBBBBB", record.longest, record.layers + 1, 8, 6, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    return "data:image/png;base64," + base64.b64encode(png).decode()
