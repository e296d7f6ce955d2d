# SPDX-License-Identifier: MIT
"""The parts of figures: palettes, panels, axes, lines with intervals, legends."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from PIL import Image

from guide_ext.influence.record import visible
from guide_ext.studies.report.record import StudyRecord
from guide_ext.studies.report.sentences import short
from guide_ext.studies.tables.reading import Estimate, number

_DPI = 150
_COLORS = 240  # enough for lines, bands and one scale; a third of the bytes of true colour
_DODGE = 0.055  # of the distance of two categories, between conditions
_COUNTED = (
    ("documents", "documents"),
    ("pairs", "pairs"),
    ("cases", "cases"),
    ("answers", "answers"),
    ("tokens", "tokens"),
)
_TILTED = 5  # categories from which on their names would touch


@dataclass(frozen=True)
class Palette:
    """Colours for one background that people with any kind of colour vision can tell apart.

    Attributes:
        page: The background.
        ink: Text.
        soft: Axes, and the plain condition.
        rule: Grids.
        accents: Colours for things without an order; their markers differ too.
        faint, strong: Ends of the colour scale of Δ.

    """

    page: str
    ink: str
    soft: str
    rule: str
    accents: tuple[str, ...]
    faint: str
    strong: str

    def strengths(self, count: int) -> list[str]:
        """Return a number of colours for Δ, from weak to strong."""
        scale = LinearSegmentedColormap.from_list("delta", [self.faint, self.strong])
        return [to_hex(scale(index / max(1, count - 1))) for index in range(count)]


LIGHT = Palette(
    page="#ffffff",
    ink="#1d1f24",
    soft="#5b616d",
    rule="#dddad3",
    accents=("#2b4fd0", "#d55e00", "#007a5e", "#a4438a", "#8a6d00"),
    faint="#86a8f5",
    strong="#10206b",
)
DARK = Palette(
    page="#1d2026",
    ink="#eceae5",
    soft="#a3a8b3",
    rule="#353a43",
    accents=("#8fa9ff", "#ff9a4d", "#3fd0a4", "#ec93d2", "#e3c04b"),
    faint="#4f6bd8",
    strong="#dfe7ff",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_LEGEND, _HANDLE = 140, 9  # characters across a legend, and those that a line takes
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)), (0, (7, 2)))


@dataclass(frozen=True)
class Series:
    """A line of a figure: its points with their intervals, and how it is drawn."""

    label: str
    points: tuple[tuple[float, Estimate], ...]
    color: str
    marker: str = "o"
    dash: object = "-"


def amount(record: StudyRecord, *names: str) -> str:
    """Return how much was measured: the number of documents, or else of pairs, cases, ….

    Args:
        record: The tables of a run.
        names: Names of the tables.

    """
    for column, noun in _COUNTED:
        counts = [number(row, column) for name in names for row in record.rows(name)]
        known = [count for count in counts if count is not None]
        if known:
            return f"{short(max(known))} {noun}"
    return ""


def canvas(
    record: StudyRecord,
    measured: str,
    title: str,
    palette: Palette,
    *,
    widths: Sequence[float] = (1.0,),
    rows: int = 1,
    height: float = 4.1,
    share_y: bool = False,
    has_intervals: bool = True,
) -> tuple[Figure, list[Axes]]:
    """Return an empty figure with its title and panels.

    Args:
        record: The tables of a run; their model stands in the title.
        measured: How much was measured, see `amount`; stands in the title.
        title: The first line of the title.
        palette: The colours.
        widths: Relative widths of the panels of a row.
        rows: Number of rows of panels.
        height: Height of the figure, in inches.
        share_y: Whether all panels have the same vertical axis.
        has_intervals: Whether the title explains the bars.

    """
    figure = Figure(figsize=(9.6, height), layout="constrained", facecolor=palette.page)
    FigureCanvasAgg(figure)
    facts = ", ".join(filter(None, (visible(record.model), measured)))
    bars = "; bars: 95 % intervals" if has_intervals else ""
    figure.suptitle(
        f"{title}\n{facts}{bars}",
        fontsize=10.5,
        color=palette.ink,
        x=0.012,
        ha="left",
        parse_math=False,
    )
    panels = figure.subplots(
        rows, len(widths), squeeze=False, sharey=share_y, gridspec_kw={"width_ratios": widths}
    ).ravel()
    for panel in panels:
        dress(panel, palette)
    return figure, list(panels)


def dress(panel: Axes, palette: Palette) -> None:
    """Give a panel the colours of a palette, and no more lines than needed."""
    panel.set_facecolor(palette.page)
    for name, spine in panel.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(palette.rule)
    panel.tick_params(labelsize=8.5, colors=palette.soft, labelcolor=palette.ink, length=3)
    panel.grid(axis="y", color=palette.rule, linewidth=0.7)
    panel.set_axisbelow(True)
    panel.title.set_color(palette.ink)
    panel.xaxis.label.set(color=palette.soft, fontsize=9)
    panel.yaxis.label.set(color=palette.soft, fontsize=9)


def rate_axis(panel: Axes, label: str) -> None:
    """Make the vertical axis one of shares from 0 to 1."""
    panel.set_ylim(-0.02, 1.04)
    panel.set_ylabel(label)


def delta_axis(panel: Axes, deltas: Sequence[float]) -> None:
    """Make the horizontal axis one of Δ, with a tick at every value."""
    ticks = sorted(set(deltas))
    panel.set_xticks(ticks)
    gap = min((b - a for a, b in itertools.pairwise(ticks)), default=1.0)
    is_tight = bool(ticks) and gap < 0.06 * (ticks[-1] - ticks[0])
    panel.set_xticklabels([short(tick) for tick in ticks], rotation=45 if is_tight else 0)
    panel.set_xlabel("Δ (nats) on the marked part")


def named_axis(panel: Axes, names: Sequence[str], label: str) -> None:
    """Make the horizontal axis one of names, at 0, 1, …."""
    panel.set_xticks(range(len(names)))
    is_tilted = len(names) >= _TILTED
    panel.set_xticklabels(
        names,
        rotation=30 if is_tilted else 0,
        ha="right" if is_tilted else "center",
        rotation_mode="anchor",
        parse_math=False,
    )
    panel.set_xlim(-0.5, max(1, len(names)) - 0.5)
    panel.set_xlabel(label)


def _bars(values: Sequence[Estimate]) -> list[list[float]]:
    """Return the lengths of the bars below and above; 0 without an interval."""
    below, above = [], []
    for one in values:
        is_known = one.low is not None and one.high is not None
        below.append(max(0.0, one.value - one.low) if is_known and one.low is not None else 0.0)
        above.append(max(0.0, one.high - one.value) if is_known and one.high is not None else 0.0)
    return [below, above]


def _label(text: str) -> str:
    """Return a label for a legend; matplotlib leaves out those that begin with an underscore."""
    shown = visible(text)
    return f"\N{NO-BREAK SPACE}{shown}" if shown.startswith("_") else shown


def draw_series(panel: Axes, series: Sequence[Series], *, dodge: bool = False) -> None:
    """Draw lines with intervals; with `dodge`, points of one place stand beside each other."""
    for index, one in enumerate(series):
        shift = _DODGE * (index - (len(series) - 1) / 2) if dodge else 0.0
        values = [value for _, value in one.points]
        panel.errorbar(
            [place + shift for place, _ in one.points],
            [value.value for value in values],
            yerr=_bars(values) if any(value.has_interval for value in values) else None,
            color=one.color,
            marker=one.marker,
            markersize=5,
            linestyle=one.dash,
            linewidth=1.6,
            elinewidth=1.1,
            capsize=2.5,
            label=_label(one.label),
        )


def draw_level(panel: Axes, label: str, value: Estimate, color: str, dash: object) -> None:
    """Draw a value as a line across the panel, and its interval as a band."""
    if value.low is not None and value.high is not None:
        panel.axhspan(value.low, value.high, color=color, alpha=0.13, linewidth=0)
    panel.axhline(value.value, color=color, linestyle=dash, linewidth=1.4, label=_label(label))


def draw_reference(panel: Axes, value: float, label: str, palette: Palette) -> None:
    """Draw a dashed line across the panel, with its meaning at its right end."""
    panel.axhline(value, color=palette.soft, linestyle=DASHES[1], linewidth=1.2)
    panel.annotate(
        label, (0.995, value), xycoords=("axes fraction", "data"), xytext=(0, 3),
        textcoords="offset points", ha="right", fontsize=8.5, color=palette.soft,
    )  # fmt: skip


def _columns(labels: Sequence[str]) -> int:
    """Return how many columns of a legend fit beside each other."""
    most = min(len(labels), 6 if len(labels) < 7 else math.ceil(len(labels) / 2))
    for columns in range(most, 1, -1):
        parts = np.array_split([len(label) for label in labels], columns)  # as matplotlib does
        if sum(int(part.max()) + _HANDLE for part in parts) <= _LEGEND:
            return columns
    return 1


def legend(
    figure: Figure, panels: Sequence[Axes], palette: Palette, *, first: Iterable[str] = ()
) -> None:
    """Draw a legend below the figure, with every label once.

    Args:
        figure: The figure.
        panels: The panels whose lines it explains.
        palette: The colours.
        first: Labels that come first, in this order.

    """
    found: dict[str, Any] = dict.fromkeys(map(_label, first))
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found[label] = found.get(label) or handle
    found = {label: handle for label, handle in found.items() if handle is not None}
    if not found:
        return
    shown = figure.legend(
        list(found.values()),
        list(found),
        loc="outside lower center",
        ncols=_columns(list(found)),
        fontsize=8.5,
        frameon=False,
        labelcolor=palette.ink,
        handlelength=2.6,
    )
    for item in shown.get_texts():
        item.set_parse_math(False)


def title_panel(panel: Axes, title: str, palette: Palette) -> None:
    """Write the title of a panel, at its left."""
    panel.set_title(title, fontsize=9.5, loc="left", color=palette.ink, parse_math=False)


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG; the same figure gives the same bytes."""
    figure.set_dpi(_DPI)
    drawn = FigureCanvasAgg(figure)
    drawn.draw()
    pixels = Image.fromarray(np.asarray(drawn.buffer_rgba())).convert("RGB")
    out = io.BytesIO()
    pixels.quantize(_COLORS, dither=Image.Dither.NONE).save(out, format="png", optimize=True)
    return out.getvalue()
