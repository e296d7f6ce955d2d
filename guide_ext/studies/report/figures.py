# SPDX-License-Identifier: MIT
"""The paper's figures from the tables of a run, as PNGs; nothing here measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from guide_ext.studies.report import curves, distributions
from guide_ext.studies.report.findings import STUDIES, findings
from guide_ext.studies.report.panels import LIGHT, Palette, png
from guide_ext.studies.report.record import StudyRecord


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn.

    Attributes:
        name: Of its file, without suffix.
        study: Which study shows it.
        tables: The tables it shows; it is drawn if there is the first.
        alt: What is seen, to who does not see it.
        draw: Draws it.

    """

    name: str
    study: str
    tables: tuple[str, ...]
    alt: str
    draw: Callable[[StudyRecord, Palette], Figure]


def drawings(record: StudyRecord) -> list[Drawing]:
    """Return the figures of a run in the order of its studies."""
    return [one for one in _DRAWINGS if one.tables[0] in record.tables]


def picture(record: StudyRecord, drawing: Drawing, palette: Palette = LIGHT) -> bytes:
    """Draw one figure.

    Args:
        record: The tables.
        drawing: Which one.
        palette: `LIGHT` or `DARK` of `study_panels`.

    Returns:
        A PNG; the same tables give the same bytes.

    """
    return png(drawing.draw(record, palette))


def described(record: StudyRecord, drawing: Drawing) -> str:
    """Return what a figure shows in words, with what its tables say."""
    study = next(one for one in STUDIES if one.name == drawing.study)
    return " ".join([f"{drawing.alt}.", *findings(record, study)])


_DRAWINGS = (
    Drawing(
        "french",
        "french",
        ("french", "french_by_length"),
        "Share of summaries in French over Δ, with upper case and “Important:” as levels, and over "
        "the length of the text",
        curves.rates(
            "french", "french_by_length", "Summaries in French", "in_french", "share in French",
            {"right": "right in every word", "well_formed": "well-formed"},
        ),
    ),
    Drawing(
        "sft",
        "sft",
        ("sft",),
        "Share in French over the tokens that fine-tuning has seen, with GUIDE and the plain model "
        "as levels",
        curves.sft,
    ),
    Drawing(
        "french_quality",
        "french_quality",
        ("french_quality",),
        "Win rate of guided summaries by BERTScore over Δ, with a line at a draw",
        curves.quality,
    ),
    Drawing(
        "french_quality_density",
        "french_quality",
        ("french_quality_density",),
        "Two histograms of BERTScore: summaries in French, and in another language",
        distributions.density,
    ),
    Drawing(
        "needle",
        "needle",
        ("needle",),
        "Share of needles found over Δ, with upper case and “Important:” as levels",
        curves.rates("needle", "", "A needle in a haystack", "found", "share found", {}),
    ),
    Drawing(
        "needle_grid",
        "needle",
        ("needle_grid",),
        "Heat maps of the share of needles found, length of the text by depth of the needle, one "
        "for every Δ",
        distributions.grid,
    ),
    Drawing(
        "json",
        "json",
        ("json", "json_by_length"),
        "Jaccard index, the authors' score and exact answers over Δ, and the index over the length "
        "of the text",
        curves.rates(
            "json", "json_by_length", "JSON by a template", "jaccard", "Jaccard index of the keys",
            {"authors": "authors' score", "exact": "exactly the template"},
        ),
    ),
    Drawing(
        "predictor",
        "predictor",
        ("predictor",),
        "Area under the ROC curve of every predictor of success, for every task, over all texts "
        "and among texts of one length",
        distributions.predictor,
    ),
    Drawing(
        "norms",
        "norms",
        ("norms",),
        "A box for every layer: the ratio of the norms of embedding and update, on a logarithmic "
        "scale",
        distributions.norms,
    ),
    Drawing(
        "norms_by_length",
        "norms",
        ("norms_by_length",),
        "Influence and rollout of the instruction over the length of the text, on a logarithmic "
        "scale",
        distributions.norms_by_length,
    ),
    Drawing(
        "delta_limit",
        "delta_limit",
        ("delta_limit",),
        "Shares of answers in French, well-formed and mostly repeating themselves over Δ, and how "
        "many tokens are written",
        curves.limit,
    ),
)  # fmt: skip
