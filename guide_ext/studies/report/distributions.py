# SPDX-License-Identifier: MIT
"""Draw histograms, boxes of quantiles, and scores of names side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from guide_ext.influence.record import visible
from guide_ext.studies.report.panels import (
    DASHES,
    MARKERS,
    Palette,
    Series,
    amount,
    canvas,
    draw_series,
    legend,
    named_axis,
    title_panel,
)
from guide_ext.studies.report.record import StudyRecord
from guide_ext.studies.report.sentences import length_range, short
from guide_ext.studies.tables.reading import TableRow, estimate, number, text


@dataclass(frozen=True)
class Histogram:
    """A histogram.

    Attributes:
        label: What the legend calls it.
        rows: Its bins, with the columns ``from``, ``to`` and ``share``.
        color: Its colour.
        hatch: Its hatching, as matplotlib writes it.

    """

    label: str
    rows: Sequence[TableRow]
    color: str
    hatch: str = ""


def draw_histograms(panel: Axes, histograms: Sequence[Histogram]) -> None:
    """Draw histograms over each other, the first at the back."""
    for one in histograms:
        bins = [
            (start, end - start, share)
            for row in one.rows
            for start, end, share in [
                (number(row, "from"), number(row, "to"), number(row, "share"))
            ]
            if start is not None and end is not None and share
        ]
        if bins:
            starts, widths, shares = zip(*bins, strict=True)
            panel.bar(
                starts, shares, widths, align="edge", alpha=0.5, color=one.color, hatch=one.hatch,
                edgecolor=one.color, linewidth=1.0, label=one.label,
            )  # fmt: skip


def draw_scores(
    record: StudyRecord,
    palette: Palette,
    *,
    table: str,
    title: str,
    panel_column: str,
    name_column: str,
    scores: Mapping[str, str],
    label: str,
    chance: float,
) -> Figure:
    """Draw scores of names with intervals: a line for each name, a panel for each other value.

    Args:
        record: The tables of a run.
        palette: The colours.
        table: The table of the scores.
        title: Title of the figure.
        panel_column: Column whose values have a panel each.
        name_column: Column whose values have a line each.
        scores: At most two columns of scores, and what the legend calls them.
        label: Label of the horizontal axes.
        chance: The score of chance, drawn as a dashed line.

    """
    rows = record.rows(table)
    groups = list(dict.fromkeys(text(row, panel_column) for row in rows))
    names = list(dict.fromkeys(text(row, name_column) for row in rows))
    figure, panels = canvas(
        record,
        amount(record, table),
        title,
        palette,
        widths=[1.0] * len(groups),
        height=1.9 + 0.36 * len(names),
        share_y=True,
    )
    for panel, group in zip(panels, groups, strict=True):
        panel.grid(axis="x", color=palette.rule, linewidth=0.7)
        panel.axvline(chance, color=palette.soft, linestyle=DASHES[1], linewidth=1.1)
        for index, (column, what) in enumerate(scores.items()):
            for row in rows:
                value = estimate(row, column)
                if text(row, panel_column) != group or value is None:
                    continue
                has_bars = value.low is not None and value.high is not None
                bars = [[value.value - (value.low or 0.0)], [(value.high or 0.0) - value.value]]
                panel.errorbar(
                    value.value, names.index(text(row, name_column)) + (-0.13, 0.13)[index],
                    xerr=bars if has_bars else None, color=palette.accents[index],
                    marker=MARKERS[index], markersize=5, linestyle="", capsize=2.5, elinewidth=1.1,
                    label=what,
                )  # fmt: skip
        title_panel(panel, visible(record.word(table, panel_column, group)), palette)
        panel.set_xlim(-0.02, 1.02)
        panel.xaxis.set_major_locator(MaxNLocator(5))
        panel.set_xlabel(label)
    panels[0].set_yticks(range(len(names)))
    panels[0].set_yticklabels(
        [visible(record.word(table, name_column, name)) for name in names], parse_math=False
    )
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    legend(figure, panels, palette)
    return figure


def draw_boxes(
    record: StudyRecord,
    palette: Palette,
    *,
    table: str,
    title: str,
    place: str,
    quantiles: Sequence[str],
    label: str,
) -> Figure:
    """Draw a box for each row of a table, on a logarithmic scale.

    Args:
        record: The tables of a run.
        palette: The colours.
        table: The table of the quantiles.
        title: Title of the figure.
        place: Column of the places of the boxes; also the label of the horizontal axis.
        quantiles: Five columns: lower whisker, lower quartile, median, upper quartile, upper
            whisker.
        label: Label of the vertical axis.

    """
    boxes = []
    for row in record.rows(table):
        known = [value for name in quantiles for value in [number(row, name)] if value is not None]
        if len(known) == len(quantiles):
            boxes.append((number(row, place) or 0.0, known))
    figure, panels = canvas(record, amount(record, table), title, palette, has_intervals=False)
    names = ("whislo", "q1", "med", "q3", "whishi")
    drawn = panels[0].bxp(
        [dict(zip(names, values, strict=True)) for _, values in boxes],
        positions=[at for at, _ in boxes],
        widths=0.6,
        showfliers=False,
        patch_artist=True,
        manage_ticks=False,
    )
    for kind in ("whiskers", "caps"):
        for line in drawn[kind]:
            line.set_color(palette.soft)
    for box in drawn["boxes"]:
        box.set(facecolor=palette.accents[0], edgecolor=palette.accents[0], alpha=0.6)
    for line in drawn["medians"]:
        line.set(color=palette.ink, linewidth=1.6)
    panels[0].set_yscale("log", nonpositive="clip")
    _plain_log(panels[0])
    panels[0].xaxis.set_major_locator(MaxNLocator(16, integer=True))
    places = [at for at, _ in boxes] or [1.0]
    panels[0].set_xlim(min(places) - 0.7, max(places) + 0.7)
    panels[0].set_xlabel(place)
    panels[0].set_ylabel(label)
    return figure


def draw_over_length(
    record: StudyRecord,
    palette: Palette,
    *,
    table: str,
    title: str,
    column: str,
    panel_column: str,
    color_column: str,
    dash_column: str,
    label: str,
) -> Figure:
    """Draw a positive number over the length of the text, on a logarithmic scale.

    Args:
        record: The tables of a run.
        palette: The colours.
        table: The table of the number by length.
        title: Title of the figure.
        column: Column of the number.
        panel_column: Column of texts whose values have a panel each.
        color_column: Column of texts whose values have a colour each.
        dash_column: Column of numbers whose values have a dash each.
        label: Label of the vertical axis.

    """
    rows = [row for row in record.rows(table) if (number(row, column) or 0.0) > 0]
    groups = list(dict.fromkeys(text(row, panel_column) for row in rows)) or [""]
    ordered = sorted(rows, key=lambda row: number(row, "length_from") or 0.0)
    lengths = list(dict.fromkeys(length_range(row) for row in ordered))
    colored = list(dict.fromkeys(text(row, color_column) for row in rows))
    dashed = sorted({number(row, dash_column) or 0.0 for row in rows})
    figure, panels = canvas(
        record, amount(record, table), title, palette, widths=[1.0] * len(groups)
    )
    for panel, group in zip(panels, groups, strict=True):
        series = []
        for color_index, name in enumerate(colored):
            for dash_index, dash in enumerate(dashed):
                points = tuple(
                    (float(lengths.index(length_range(row))), value)
                    for row in ordered
                    for value in [estimate(row, column)]
                    if (text(row, panel_column), text(row, color_column), number(row, dash_column))
                    == (group, name, dash)
                    and value is not None
                )
                if points:
                    word = record.word(table, color_column, name)
                    color = palette.accents[color_index % len(palette.accents)]
                    marker = MARKERS[color_index % len(MARKERS)]
                    look = DASHES[(len(dashed) - 1 - dash_index) % len(DASHES)]
                    line = f"{word}, {dash_column} {short(dash)}"
                    series.append(Series(line, points, color, marker, look))
        draw_series(panel, series, dodge=True)
        panel.set_yscale("log", nonpositive="clip")
        named_axis(panel, lengths, "tokens of the text")
        name = visible(record.word(table, panel_column, group))
        title_panel(panel, name[:1].upper() + name[1:], palette)
    panels[0].set_ylabel(label)
    legend(figure, panels, palette)
    return figure


def _plain_log(panel: Axes) -> None:
    """Write 0.5, 20, 300 instead of powers of ten: the axis shows little more than a decade."""
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
