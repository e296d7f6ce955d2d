# SPDX-License-Identifier: MIT
"""Influence of one prompt as a picture: heat maps of every layer, and the curve of the last."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from guide_ext.influence.record import PLAIN, Record, Run, visible
from guide_ext.support.files import write_bytes

_PLAIN, _GUIDED, _BAND = "#5b616d", "#2b4fd0", "#e4e3df"
_HEAT = LinearSegmentedColormap.from_list("influence", ["#ffffff", "#f08c00", "#5c2100"])
_MOST_LABELS = 48  # tokens whose text fits below an axis
_LONGEST_LABEL = 14


def draw_influence(record: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Draw, for every group, a heat map of each run (layer × token) and the last layer's curve.

    Colours grow with the square root of Influence, so that layers of 0.02 can be seen next to
    layers of 0.5. The curve has a scale of its own.

    Args:
        record: What `guide_ext.integration.compare.measure_prompt` returned, or the same read
            from a file.
        path: Where to write the PNG. Its folder must exist; no file is ever half written.

    Returns:
        The path.

    Raises:
        ValueError: If it is not such a record.
        OSError: If the picture cannot be written.

    """
    read = Record.read(record)
    map_height = max(0.9, min(3.0, 0.2 * (read.layers + 1)))
    heights = [*[map_height] * len(read.runs), 2.2]
    figure = Figure(
        figsize=(11, 0.8 + len(read.groups) * (sum(heights) + 0.5 * len(heights))),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    blocks = figure.subfigures(len(read.groups), 1, squeeze=False)[:, 0]
    for group, block in enumerate(blocks):
        panels = block.subplots(
            len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
        )[:, 0]
        scale = PowerNorm(0.5, 0.0, read.top(group))
        for panel, run in zip(panels, read.runs, strict=False):
            _draw_map(panel, read, run, group, scale)
        block.colorbar(
            ScalarMappable(scale, _HEAT),
            ax=panels[:-1].tolist(),
            label="Influence",
            extend="max",
            ticks=[read.top(group) * step for step in (0.0, 0.05, 0.2, 0.5, 1.0)],
            format="%.3g",
        )
        _draw_curve(panels[-1], read, group)
    figure.suptitle(
        f"Influence, form “{visible(read.form)}”, model “{visible(read.model)}”",
        fontsize=11,
        parse_math=False,
    )
    path, picture = Path(path), io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    write_bytes(path, picture.getvalue())
    return path


def _draw_map(panel: Axes, record: Record, run: Run, group: int, scale: PowerNorm) -> None:
    values = [
        [float("nan") if value is None else value for value in level] for level in run.values[group]
    ]
    panel.imshow(
        values,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        cmap=_HEAT,
        norm=scale,
        extent=(0, len(run.tokens), -0.5, record.layers + 0.5),
    )
    panel.set_title(
        f"“{visible(record.groups[group])}”, {run.label}", fontsize=9, loc="left", parse_math=False
    )
    panel.set_ylabel("after layer", fontsize=9)
    panel.yaxis.set_major_locator(MaxNLocator(integer=True))
    panel.axvline(record.prompt_tokens, color="black", linewidth=0.8, linestyle=":")
    panel.tick_params(labelsize=8)


def _draw_curve(panel: Axes, record: Record, group: int) -> None:
    top = record.top(group, record.layers)
    for start, end in record.ranges(group):
        panel.axvspan(start, end, color=_BAND, linewidth=0)
    for run in record.runs:
        is_plain = run.name == PLAIN
        panel.plot(
            [token + 0.5 for token in range(len(run.tokens))],
            [_clipped(value, top) for value in run.values[group][-1]],
            color=_PLAIN if is_plain else _GUIDED,
            linestyle=(0, (3, 1.5)) if is_plain else "-",
            linewidth=1.2,
            label=run.label,
        )
    panel.axvline(record.prompt_tokens, color="black", linewidth=0.8, linestyle=":")
    # Left of the border: to its right there is no room if a short answer follows a long prompt.
    panel.text(record.prompt_tokens, 0.97 * top, "answer → ", fontsize=8, va="top", ha="right")
    panel.set_ylim(0, top)
    panel.set_xlim(0, record.longest)
    panel.set_ylabel(f"after layer {record.layers}", fontsize=9)
    panel.grid(alpha=0.25)
    panel.legend(fontsize=8, frameon=False, loc="upper center", ncols=len(record.runs))
    panel.tick_params(labelsize=8)
    if record.longest > _MOST_LABELS:
        panel.set_xlabel("token (shaded: the group itself)", fontsize=9)
        return
    panel.set_xticks([token + 0.5 for token in range(record.longest)])
    panel.set_xticklabels(_labels(record.runs, record.longest), rotation=90, parse_math=False)


def _clipped(value: float | None, top: float) -> float:
    return float("nan") if value is None else min(value, top)


def _labels(runs: Sequence[Run], longest: int) -> list[str]:
    """Return a label for every token; where answers differ, the one of the last run."""
    longer = [run for run in runs if len(run.tokens) == longest][-1]
    labels = []
    for index, token in enumerate(longer.tokens):
        shown = runs[-1].tokens[index] if index < len(runs[-1].tokens) else token
        label = shown.label.strip() or "␣"
        labels.append(label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…")
    return labels
