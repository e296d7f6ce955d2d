# SPDX-License-Identifier: MIT
"""Draw a rate over Δ, and over the length of the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from guide_ext.studies.report.panels import (
    DASHES,
    MARKERS,
    Palette,
    Series,
    amount,
    canvas,
    delta_axis,
    draw_level,
    draw_series,
    legend,
    named_axis,
    rate_axis,
)
from guide_ext.studies.report.record import StudyRecord
from guide_ext.studies.report.sentences import length_range
from guide_ext.studies.tables.reading import (
    TableRow,
    estimate,
    guided,
    is_baseline,
    number,
    text,
)

_MOST_LEVELS = 3  # of which a panel keeps legible


@dataclass(frozen=True)
class _Look:
    """How a condition is drawn in all panels of a figure."""

    color: str
    marker: str
    dash: object


def draw_rates(
    record: StudyRecord,
    palette: Palette,
    *,
    table: str,
    title: str,
    column: str,
    label: str,
    by_length: str = "",
    others: Mapping[str, str] | None = None,
    lines: Mapping[str, str] | None = None,
) -> Figure:
    """Draw a rate over Δ, and over the length of the text if the run has that table.

    What stresses the marked part without Δ is drawn as a level: the highest few, so that they can
    be told apart. The tables have all.

    Args:
        record: The tables of a run.
        palette: The colours.
        table: The table of the rate by condition.
        title: Title of the figure.
        column: The column of the rate.
        label: What the figure calls the rate.
        by_length: The table of the rate by condition and length; empty for none.
        others: More rates to draw over Δ: what the figure calls them, by column.
        lines: What else Δ is drawn on besides the marked part: what the figure calls it, by what
            the column ``style`` has for it.

    """
    has_lengths = by_length in record.tables
    widths = (1.0, 1.25) if has_lengths else (1.0,)
    figure, panels = canvas(
        record, amount(record, table), title, palette, widths=widths, share_y=True
    )
    rows = record.rows(table)
    levels = _levels(rows, column)
    drawn = {text(row, "condition") for row in [*filter(_is_guided, rows), *levels]}
    lengths = [row for row in record.rows(by_length) if text(row, "condition") in drawn]
    looks = _looks([*filter(_is_guided, rows), *levels, *lengths], palette)
    if has_lengths:  # the legend of that panel names every Δ
        _over_delta(panels[0], rows, column, looks, palette)
    else:
        draw_series(panels[0], [Series(label, tuple(guided(rows, column)), palette.accents[0])])
    for row in levels:
        value, look = estimate(row, column), looks[text(row, "condition")]
        if value is not None:
            draw_level(panels[0], text(row, "condition"), value, look.color, look.dash)
    draw_series(panels[0], _other_lines(rows, others or {}, palette))
    draw_series(panels[0], _lines_from_zero(rows, column, lines or {}, palette))
    delta_axis(panels[0], [delta for delta, _ in guided(rows, column)])
    rate_axis(panels[0], label)
    if has_lengths:
        _by_length(panels[1], lengths, column, looks)
    legend(figure, panels[::-1], palette, first=looks)
    return figure


def _is_guided(row: TableRow) -> bool:
    return not is_baseline(row)


def _levels(rows: Sequence[TableRow], column: str) -> list[TableRow]:
    """Return the highest of the rows without Δ that stress the marked part otherwise."""
    known = [
        (value.value, row)
        for row in rows
        for value in [estimate(row, column)]
        if is_baseline(row) and not number(row, "delta") and value is not None
    ]
    highest = sorted(known, key=lambda pair: -pair[0])[:_MOST_LEVELS]
    return [row for row in rows if any(row is one for _, one in highest)]


def _lines_from_zero(
    rows: Sequence[TableRow], column: str, lines: Mapping[str, str], palette: Palette
) -> list[Series]:
    """Return lines of Δ on other parts; each starts where nothing is stressed."""
    start = [point for point in guided(rows, column) if point[0] == 0]
    series = []
    for index, (way, label) in enumerate(lines.items()):
        found = [
            (number(row, "delta") or 0.0, value)
            for row in rows
            for value in [estimate(row, column)]
            if text(row, "style") == way and value is not None
        ]
        if found:
            points = tuple(sorted([*start, *found], key=lambda point: point[0]))
            color = palette.accents[1 + index % (len(palette.accents) - 1)]
            marker = MARKERS[(index + 1) % len(MARKERS)]
            series.append(Series(label, points, color, marker, "-"))
    return series


def _other_lines(
    rows: Sequence[TableRow], others: Mapping[str, str], palette: Palette
) -> list[Series]:
    lines = []
    for index, (column, label) in enumerate(others.items()):
        points = tuple(guided(rows, column))
        if points:
            color = palette.soft if column == "well_formed" else palette.accents[3 + index % 2]
            lines.append(Series(label, points, color, "", DASHES[1 + index % 3]))
    return lines


def _looks(rows: Sequence[TableRow], palette: Palette) -> dict[str, _Look]:
    """Choose looks by condition: plain in grey, Δ from faint to strong, baselines in accents."""
    firsts: dict[str, TableRow] = {}
    for row in rows:
        firsts.setdefault(text(row, "condition"), row)
    deltas = {name: number(row, "delta") or 0.0 for name, row in firsts.items()}
    baselines = [name for name, row in firsts.items() if is_baseline(row)]
    strengths = sorted({delta for name, delta in deltas.items() if name not in baselines} - {0.0})
    shades = dict(zip(strengths, palette.strengths(len(strengths)), strict=True))
    looks = {}
    for index, name in enumerate(firsts):
        marker = MARKERS[index % len(MARKERS)]
        if name in baselines:
            at = baselines.index(name)
            color = palette.accents[1 + at % (len(palette.accents) - 1)]
            looks[name] = _Look(color, marker, DASHES[2 + at % 2])
        elif deltas[name]:
            looks[name] = _Look(shades[deltas[name]], marker, "-")
        else:
            looks[name] = _Look(palette.soft, marker, DASHES[1])
    return looks


def _over_delta(
    panel: Axes, rows: Sequence[TableRow], column: str, looks: Mapping[str, _Look], palette: Palette
) -> None:
    """Draw the rate over Δ, each Δ in its own look."""
    line = guided(rows, column)
    panel.plot(
        [delta for delta, _ in line],
        [value.value for _, value in line],
        color=palette.accents[0],
        linewidth=1.4,
    )
    for row in rows:
        name, value, delta = text(row, "condition"), estimate(row, column), number(row, "delta")
        if value is not None and delta is not None and not is_baseline(row):
            look = looks[name]
            draw_series(panel, [Series(name, ((delta, value),), look.color, look.marker, "")])


def _by_length(
    panel: Axes, rows: Sequence[TableRow], column: str, looks: Mapping[str, _Look]
) -> None:
    lengths = sorted({(number(row, "length_from") or 0.0, length_range(row)) for row in rows})
    places = {name: index for index, (_, name) in enumerate(lengths)}
    series = []
    for condition in dict.fromkeys(text(row, "condition") for row in rows):
        own = (row for row in rows if text(row, "condition") == condition)
        found = ((float(places[length_range(row)]), estimate(row, column)) for row in own)
        points = tuple((place, value) for place, value in found if value is not None)
        look = looks[condition]
        line = sorted(points, key=lambda point: point[0])
        series.append(Series(condition, tuple(line), look.color, look.marker, look.dash))
    draw_series(panel, series, dodge=True)
    named_axis(panel, list(places), "tokens of the text")
