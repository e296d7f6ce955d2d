# SPDX-License-Identifier: MIT
"""A Δ for each layer and head, as a picture."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from guide_ext.support.files import write_bytes

# Played down, untouched, played up: the hues of the pages, which readers of all eyes can tell.
_COLOURS = LinearSegmentedColormap.from_list("nats", ["#2b4fd0", "#ffffff", "#f08c00", "#5c2100"])
_MOST_CELLS_WITH_NUMBERS = 200


def draw_strengths(nats: Sequence[Sequence[float]], path: str | os.PathLike[str]) -> Path:
    """Draw a table of Δ, a row for each layer and a column for each head.

    White is no bias. Small tables show their numbers.

    Args:
        nats: Δ of a level-2 mark, ``[layers, heads]``.
        path: Where to write the PNG. Its folder must exist; no file is ever half written.

    Returns:
        The path.

    Raises:
        OSError: If the picture cannot be written.

    """
    layers, heads = len(nats), len(nats[0])
    values = [value for row in nats for value in row]
    scale = TwoSlopeNorm(0.0, min(*values, -0.01), max(*values, 0.01))
    figure = Figure(figsize=(2.2 + 0.5 * heads, 1.4 + 0.32 * layers), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    image = panel.imshow(nats, cmap=_COLOURS, norm=scale, aspect="auto")
    if layers * heads <= _MOST_CELLS_WITH_NUMBERS:
        for layer, row in enumerate(nats):
            for head, value in enumerate(row):
                red, green, blue, _ = _COLOURS(scale(value))
                is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
                panel.text(
                    head, layer, f"{value:.1f}", ha="center", va="center", fontsize=7,
                    color="white" if is_dark else "black",
                )  # fmt: skip
    panel.set_xlabel("head")
    panel.set_ylabel("layer")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=panel, label="Δ of a level-2 mark, nats")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    path = Path(path)
    write_bytes(path, picture.getvalue())
    return path
