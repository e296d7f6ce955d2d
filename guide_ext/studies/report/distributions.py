# SPDX-License-Identifier: MIT
"""Figures of distributions: scores, places of a needle, predictors, norms."""

from __future__ import annotations

import math

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from guide_ext.influence.record import visible
from guide_ext.studies.report import panels as parts
from guide_ext.studies.report.findings import predictor_name, short, span, task_name
from guide_ext.studies.report.panels import MARKERS, Palette, Series
from guide_ext.studies.report.record import Row, StudyRecord, estimate, number, text

_STEP = 0.02  # what one colour of a heat map stands for
_MOST_LETTERED = 160  # cells of a heat map that still have room for their numbers


def density(record: StudyRecord, palette: Palette) -> Figure:
    """Draw the histogram of BERTScore for both kinds of language."""
    figure, panels = parts.canvas(
        record,
        parts.scope(record, "french"),
        "BERTScore of summaries by language",
        palette,
        height=3.4,
        has_intervals=False,
    )
    for language, label, color, hatch in (
        ("other", "in another language", palette.accents[1], "///"),
        ("french", "in French", palette.accents[0], ""),
    ):
        bins = [
            (start, end - start, share)
            for row in record.rows("french_quality_density")
            if text(row, "language") == language
            for start, end, share in [
                (number(row, "from"), number(row, "to"), number(row, "share"))
            ]
            if start is not None and end is not None and share
        ]
        if bins:
            starts, widths, shares = zip(*bins, strict=True)
            panels[0].bar(
                starts, shares, widths, align="edge", alpha=0.5, color=color, hatch=hatch,
                edgecolor=color, linewidth=1.0, label=label,
            )  # fmt: skip
    panels[0].set_xlabel("BERTScore (F1)")
    panels[0].set_ylabel("share of summaries")
    parts.legend(figure, panels, palette)
    return figure


def grid(record: StudyRecord, palette: Palette) -> Figure:
    """Draw how often the needle is found, by length and depth, a map for every Δ."""
    rows = record.rows("needle_grid")
    deltas = sorted(
        {delta for row in rows for delta in [number(row, "delta")] if delta is not None}
    )
    lengths = list(dict.fromkeys(span(row) for row in sorted(rows, key=_length)))
    depths = sorted(
        {(number(row, "depth_from") or 0.0, number(row, "depth_to") or 0.0) for row in rows}
    )
    across = max(1, len(deltas)) if len(deltas) <= 3 else 2 if len(deltas) == 4 else 3
    down = math.ceil(len(deltas) / across) or 1
    figure, panels = parts.canvas(
        record,
        parts.scope(record, "needle", "needle_grid"),
        "Share of needles found, by length of the text and depth of the needle",
        palette,
        widths=[1.0] * across,
        rows=down,
        height=0.9 + down * max(2.6, 0.97 + 0.3 * len(depths)),
        share_y=True,
        has_intervals=False,
    )
    size = 7.5 if across * len(lengths) <= 18 else 6.2
    found = [value for row in rows for value in [number(row, "found")] if value is not None]
    least = min(0.9, math.floor(10 * min(found, default=0.0)) / 10)
    scale = Normalize(least, 1.0)
    steps = max(1, round((1.0 - least) / _STEP))
    colors = ScalarMappable(scale, colormaps["cividis"].resampled(steps))
    for panel, delta in zip(panels, deltas, strict=False):
        cells = {
            (span(row), number(row, "depth_from") or 0.0): number(row, "found")
            for row in rows
            if number(row, "delta") == delta
        }
        values = [[_nan(cells.get((length, start))) for length in lengths] for start, _ in depths]
        panel.imshow(values, aspect="auto", cmap=colors.cmap, norm=scale, interpolation="nearest")
        panel.set_title(f"Δ = {short(delta)}", fontsize=9.5, loc="left", color=palette.ink)
        panel.grid(visible=False)
        parts.named_axis(panel, lengths, "tokens of the text")
        panel.set_yticks(range(len(depths)))
        panel.set_yticklabels([f"{short(100 * a)}–{short(100 * b)} %" for a, b in depths])
        if len(lengths) * len(depths) <= _MOST_LETTERED:
            for y, line in enumerate(values):
                for x, value in enumerate(line):
                    shown = "–" if math.isnan(value) else f"{value:.2f}"
                    is_bright = not math.isnan(value) and scale(value) > 0.55
                    color = "#1d1f24" if is_bright else "#ffffff"
                    panel.text(x, y, shown, ha="center", va="center", fontsize=size,
                               color=palette.ink if math.isnan(value) else color)  # fmt: skip
    for panel in panels[::across]:
        panel.set_ylabel("depth of the needle")
    for panel in panels[len(deltas) :]:
        panel.set_visible(False)
    bar = figure.colorbar(colors, ax=panels, fraction=0.03, pad=0.015)
    bar.set_label("share found", color=palette.soft, fontsize=9)
    bar.ax.tick_params(labelsize=8.5, colors=palette.soft, labelcolor=palette.ink)
    bar.outline.set_edgecolor(palette.rule)
    return figure


def _length(row: Row) -> float:
    return number(row, "length_from") or 0.0


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value


def predictor(record: StudyRecord, palette: Palette) -> Figure:
    """Draw the AUC of every predictor, a panel for every task."""
    rows = record.rows("predictor")
    tasks = list(dict.fromkeys(text(row, "task") for row in rows))
    names = list(dict.fromkeys(text(row, "predictor") for row in rows))
    figure, panels = parts.canvas(
        record,
        parts.scope(record, "predictor"),
        "How well each predictor ranks success (area under the ROC curve)",
        palette,
        widths=[1.0] * len(tasks),
        height=1.9 + 0.36 * len(names),
        share_y=True,
    )
    for panel, task in zip(panels, tasks, strict=True):
        panel.grid(axis="x", color=palette.rule, linewidth=0.7)
        panel.axvline(0.5, color=palette.soft, linestyle=parts.DASHES[1], linewidth=1.1)
        for column, label, color, marker, shift in (
            ("auc", "all texts", palette.accents[0], "o", -0.13),
            ("auc_within", "among texts of one length", palette.accents[1], "s", 0.13),
        ):
            for row in rows:
                value = estimate(row, column)
                if text(row, "task") != task or value is None:
                    continue
                has_bars = value.low is not None and value.high is not None
                bars = [[value.value - (value.low or 0.0)], [(value.high or 0.0) - value.value]]
                panel.errorbar(
                    value.value, names.index(text(row, "predictor")) + shift,
                    xerr=bars if has_bars else None, color=color, marker=marker, markersize=5,
                    linestyle="", capsize=2.5, elinewidth=1.1, label=label,
                )  # fmt: skip
        panel.set_title(
            visible(task_name(task)), fontsize=9.5, loc="left", color=palette.ink, parse_math=False
        )
        panel.set_xlim(-0.02, 1.02)
        panel.xaxis.set_major_locator(MaxNLocator(5))
        panel.set_xlabel("AUC (0.5: chance)")
    panels[0].set_yticks(range(len(names)))
    panels[0].set_yticklabels([visible(predictor_name(name)) for name in names], parse_math=False)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    parts.legend(figure, panels, palette)
    return figure


def norms(record: StudyRecord, palette: Palette) -> Figure:
    """Draw the ratio of the norms of embedding and update, a box for every layer."""
    boxes = []
    for row in record.rows("norms"):
        quantiles = [number(row, column) for column in ("p5", "p25", "median", "p75", "p95")]
        known = [value for value in quantiles if value is not None]
        if len(known) == len(quantiles):
            boxes.append((number(row, "layer") or 0.0, known))
    figure, panels = parts.canvas(
        record,
        parts.scope(record, "norms"),
        "Norm of the embedding over norm of the update "
        "(box: quartiles and median; whiskers: 5 to 95 %)",
        palette,
        has_intervals=False,
    )
    names = ("whislo", "q1", "med", "q3", "whishi")
    drawn = panels[0].bxp(
        [dict(zip(names, values, strict=True)) for _, values in boxes],
        positions=[layer for layer, _ in boxes],
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
    layers = [layer for layer, _ in boxes] or [1.0]
    panels[0].set_xlim(min(layers) - 0.7, max(layers) + 0.7)
    panels[0].set_xlabel("layer")
    panels[0].set_ylabel("|E| / |U|, log scale")
    return figure


def norms_by_length(record: StudyRecord, palette: Palette) -> Figure:
    """Draw every predictor over the length of the text, on a logarithmic scale."""
    rows = [row for row in record.rows("norms_by_length") if (number(row, "mean") or 0.0) > 0]
    predictors = list(dict.fromkeys(text(row, "predictor") for row in rows)) or [""]
    lengths = list(dict.fromkeys(span(row) for row in sorted(rows, key=_length)))
    tasks = list(dict.fromkeys(text(row, "task") for row in rows))
    layers = sorted({number(row, "layer") or 0.0 for row in rows})
    figure, panels = parts.canvas(
        record,
        parts.scope(record, "norms_by_length"),
        "Influence and rollout of the instruction over the length of the text",
        palette,
        widths=[1.0] * len(predictors),
    )
    for panel, predictor in zip(panels, predictors, strict=True):
        series = []
        for task_index, task in enumerate(tasks):
            for layer_index, layer in enumerate(layers):
                points = tuple(
                    (float(lengths.index(span(row))), value)
                    for row in sorted(rows, key=_length)
                    for value in [estimate(row, "mean")]
                    if (text(row, "predictor"), text(row, "task"), number(row, "layer"))
                    == (predictor, task, layer)
                    and value is not None
                )
                if points:
                    label = f"{task_name(task)}, layer {short(layer)}"
                    color = palette.accents[task_index % len(palette.accents)]
                    marker = MARKERS[task_index % len(MARKERS)]
                    dash = parts.DASHES[(len(layers) - 1 - layer_index) % len(parts.DASHES)]
                    series.append(Series(label, points, color, marker, dash))
        parts.draw_series(panel, series, dodge=True)
        panel.set_yscale("log", nonpositive="clip")
        parts.named_axis(panel, lengths, "tokens of the text")
        name = visible(predictor_name(predictor))
        name = name[:1].upper() + name[1:]
        panel.set_title(name, fontsize=9.5, loc="left", color=palette.ink, parse_math=False)
    panels[0].set_ylabel("mean, log scale")
    parts.legend(figure, panels, palette)
    return figure


def _plain_log(panel: Axes) -> None:
    """Write 0.5, 20, 300 instead of powers of ten, where little more than a decade is shown."""
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
