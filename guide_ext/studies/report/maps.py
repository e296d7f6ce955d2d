# SPDX-License-Identifier: MIT
"""Draw heat maps of shares: by length and depth, or by kind and Δ."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from guide_ext.influence.record import visible
from guide_ext.studies.report.panels import Palette, amount, canvas, named_axis, title_panel
from guide_ext.studies.report.record import StudyRecord
from guide_ext.studies.report.sentences import length_range, short
from guide_ext.studies.tables.reading import TableRow, number, text

_STEP = 0.02  # the width of one colour
_MOST_LETTERED = 160  # cells of a map that still have room for their numbers
_DARK_INK, _BRIGHT_INK = "#1d1f24", "#ffffff"
_STRONG = 0.5  # a share whose colour is far from the page's
_BRIGHT = 0.55  # of the colour scale, from which on colours are bright


def draw_maps(
    record: StudyRecord,
    palette: Palette,
    *,
    table: str,
    column: str,
    title: str,
    depth_label: str,
    bar_label: str,
    counted: Sequence[str],
) -> Figure:
    """Draw a share by length and depth, one map for each Δ.

    Args:
        record: The tables of a run.
        palette: The colours.
        table: A table with Δ, ranges of lengths and ranges of depths.
        column: The column of the share.
        title: Title of the figure.
        depth_label: Label of the vertical axes.
        bar_label: Label of the colour scale.
        counted: Tables that tell how much was measured.

    """
    rows = record.rows(table)
    deltas = sorted(
        {delta for row in rows for delta in [number(row, "delta")] if delta is not None}
    )
    lengths = list(dict.fromkeys(length_range(row) for row in sorted(rows, key=_length)))
    depths = sorted(
        {(number(row, "depth_from") or 0.0, number(row, "depth_to") or 0.0) for row in rows}
    )
    across = max(1, len(deltas)) if len(deltas) <= 3 else 2 if len(deltas) == 4 else 3
    down = math.ceil(len(deltas) / across) or 1
    figure, panels = canvas(
        record,
        amount(record, *counted),
        title,
        palette,
        widths=[1.0] * across,
        rows=down,
        height=0.9 + down * max(2.6, 0.97 + 0.3 * len(depths)),
        share_y=True,
        has_intervals=False,
    )
    size = 7.5 if across * len(lengths) <= 18 else 6.2
    scale, colors = _colors(
        [value for row in rows for value in [number(row, column)] if value is not None]
    )
    for panel, delta in zip(panels, deltas, strict=False):
        values = {
            (length_range(row), number(row, "depth_from") or 0.0): number(row, column)
            for row in rows
            if number(row, "delta") == delta
        }
        grid = [[_nan(values.get((length, start))) for length in lengths] for start, _ in depths]
        panel.imshow(grid, aspect="auto", cmap=colors.cmap, norm=scale, interpolation="nearest")
        panel.set_title(f"Δ = {short(delta)}", fontsize=9.5, loc="left", color=palette.ink)
        panel.grid(visible=False)
        named_axis(panel, lengths, "tokens of the text")
        panel.set_yticks(range(len(depths)))
        panel.set_yticklabels([f"{short(100 * a)}–{short(100 * b)} %" for a, b in depths])
        if len(lengths) * len(depths) <= _MOST_LETTERED:
            _letter(
                panel,
                grid,
                lambda value: _DARK_INK if scale(value) > _BRIGHT else _BRIGHT_INK,
                palette,
                size,
            )
    for panel in panels[::across]:
        panel.set_ylabel(depth_label)
    for panel in panels[len(deltas) :]:
        panel.set_visible(False)
    _color_bar(figure, panels, colors, bar_label, palette)
    return figure


def draw_kinds(
    record: StudyRecord,
    palette: Palette,
    *,
    table: str,
    kind_column: str,
    columns: Mapping[str, str],
    title: str,
    bar_label: str,
    counted: Sequence[str],
) -> Figure:
    """Draw shares by kind and Δ, one map for each share.

    Args:
        record: The tables of a run.
        palette: The colours.
        table: A table with kinds and Δ.
        kind_column: The column of the kinds.
        columns: The columns of the shares, and what the figure calls them.
        title: Title of the figure.
        bar_label: Label of the colour scale.
        counted: Tables that tell how much was measured.

    """
    rows = record.rows(table)
    kinds = list(dict.fromkeys(text(row, kind_column) for row in rows))
    deltas = sorted({number(row, "delta") or 0.0 for row in rows})
    figure, panels = canvas(
        record,
        amount(record, *counted),
        title,
        palette,
        widths=[1.0] * len(columns),
        height=1.5 + 0.3 * len(kinds),
        share_y=True,
        has_intervals=False,
    )
    scale = Normalize(0.0, 1.0)
    # From the page's own colour, so that what never happens stays empty.
    shades = LinearSegmentedColormap.from_list("shares", [palette.page, palette.accents[0]])
    colors = ScalarMappable(scale, shades.resampled(round(1 / _STEP)))
    for panel, (column, label) in zip(panels, columns.items(), strict=True):
        values = {
            (text(row, kind_column), number(row, "delta") or 0.0): number(row, column)
            for row in rows
        }
        grid = [[_nan(values.get((kind, delta))) for delta in deltas] for kind in kinds]
        if grid:
            panel.imshow(grid, aspect="auto", cmap=colors.cmap, norm=scale, interpolation="nearest")
        title_panel(panel, label, palette)
        panel.grid(visible=False)
        panel.set_xticks(range(len(deltas)), [short(delta) for delta in deltas])
        panel.set_xlabel("Δ (nats) on the marked part")
        panel.set_yticks(range(len(kinds)), [visible(kind) for kind in kinds], parse_math=False)
        _letter(
            panel,
            grid,
            lambda value: palette.page if value > _STRONG else palette.ink,
            palette,
            7.5,
        )
    _color_bar(figure, panels, colors, bar_label, palette)
    return figure


def _color_bar(
    figure: Figure, panels: Sequence[Axes], colors: ScalarMappable, label: str, palette: Palette
) -> None:
    bar = figure.colorbar(colors, ax=panels, fraction=0.03, pad=0.015)
    bar.set_label(label, color=palette.soft, fontsize=9)
    bar.ax.tick_params(labelsize=8.5, colors=palette.soft, labelcolor=palette.ink)
    bar.outline.set_edgecolor(palette.rule)


def _colors(values: Sequence[float]) -> tuple[Normalize, ScalarMappable]:
    """Return a scale from below the least value to 1, and its colours."""
    least = min(0.9, math.floor(10 * min(values, default=0.0)) / 10)
    steps = max(1, round((1.0 - least) / _STEP))
    scale = Normalize(least, 1.0)
    return scale, ScalarMappable(scale, colormaps["cividis"].resampled(steps))


def _letter(
    panel: Axes,
    grid: Sequence[Sequence[float]],
    ink: Callable[[float], str],
    palette: Palette,
    size: float,
) -> None:
    """Write the values into a map, each in an ink that its colour leaves readable."""
    for y, line in enumerate(grid):
        for x, value in enumerate(line):
            shown, color = "–", palette.ink
            if not math.isnan(value):
                shown = f"{value:.2f}"
                color = ink(value)
            panel.text(x, y, shown, ha="center", va="center", fontsize=size, color=color)


def _length(row: TableRow) -> float:
    return number(row, "length_from") or 0.0


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value
