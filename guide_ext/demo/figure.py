# SPDX-License-Identifier: MIT
"""The demo's figure, drawn from saved results."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from guide_ext.influence.record import visible
from guide_ext.support.files import write_bytes

_SUCCESS, _WELL_FORMED, _BASELINE = "#c8402f", "#8a8f98", "#2f6f9f"
_BASELINES = {
    "upper": ("UPPER CASE, Δ = 0", (0, (5, 2))),
    "important": ("“Important: …”, Δ = 0", (0, (1, 1.5))),
}


def draw_demo(result: dict[str, Any], path: Path) -> Path:
    """Draw success and well-formed rate over Δ, one panel per task, and save a PNG.

    Args:
        result: What ``run_demo`` returned, or the contents of ``results.json``.
        path: Where to write the picture.

    Returns:
        ``path``.

    """
    tasks = result["tasks"]
    figure = Figure(figsize=(5.2 * len(tasks), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for panel, task in zip(panels, tasks, strict=True):
        _draw_task(panel, task)
    panels[0].set_ylabel("share of documents")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    documents = result["settings"]["documents"]
    figure.suptitle(
        f"Embedded model, {documents} unseen documents per task (bars: 95 % interval)", fontsize=10
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    write_bytes(path, picture.getvalue())
    return path


def _draw_task(panel: Axes, task: dict[str, Any]) -> None:
    guided = [row for row in task["rows"] if row["variant"] == "tags"]
    deltas = [row["delta"] for row in guided]
    success = [row["success"] for row in guided]
    below = [row["success"] - row["success_interval"][0] for row in guided]
    above = [row["success_interval"][1] - row["success"] for row in guided]
    panel.errorbar(
        deltas,
        success,
        yerr=[below, above],
        color=_SUCCESS,
        marker="o",
        capsize=3,
        label="right and well-formed",
    )
    panel.plot(
        deltas,
        [row["well_formed"] for row in guided],
        color=_WELL_FORMED,
        marker=".",
        linestyle=":",
        label="well-formed",
    )
    for row in task["rows"]:
        if row["variant"] in _BASELINES:
            label, style = _BASELINES[row["variant"]]
            panel.axhline(
                row["success"], color=_BASELINE, linestyle=style, linewidth=1, label=label
            )
    panel.set_title(visible(task["title"]), fontsize=10, parse_math=False)
    panel.set_xlabel("Δ (nats) on the marked instruction")
    panel.set_ylim(0, 1.02)
    panel.grid(alpha=0.25)
