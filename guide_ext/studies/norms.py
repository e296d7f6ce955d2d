# SPDX-License-Identifier: MIT
"""The study `norms`: why does Influence weigh by norms?

It measures the norm of the residual stream over the norm of what attention adds to it, layer by
layer; and how Influence, which weighs by it, and rollout, which does not, change with the length of
the text.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from guide_ext.studies import french, json_template
from guide_ext.studies.measurement import INFLUENCE, Measurement
from guide_ext.studies.predictor import PREDICTOR_COLUMN, TASK_COLUMN, form_name
from guide_ext.studies.report.paper import MISTRAL, Claim
from guide_ext.studies.report.section import Drawing, Section
from guide_ext.studies.report.sentences import short
from guide_ext.studies.study import Study
from guide_ext.studies.tables.reading import TableRow, number, text
from guide_ext.studies.tables.results import Results, levels_of
from guide_ext.studies.tables.statistics import quantiles_of_counts, rate, rounded
from guide_ext.studies.tables.table import LENGTH, Column, Table, with_interval

if TYPE_CHECKING:
    from guide_ext.studies.report.panels import Palette
    from guide_ext.studies.report.record import StudyRecord

RATIO_BINS = 100
"""Bins of the histogram of ratios in a factor of ten."""
QUANTILES = {"p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}
_SHOWN = ("influence", "rollout")


# What is measured.


def _count_ratios(
    model: Any, tokenizer: Any, prompts: Sequence[Any], end_tokens: Sequence[int]
) -> list[dict[str, Any]]:
    """Count the ratios of every prompt and layer in bins of their logarithm."""
    from guide_ext import integration  # loads torch
    from guide_ext.integration.influence.measure import norm_ratios

    inputs = integration.encode(model, tokenizer, prompts, delta=0.0)
    results = []
    for logs in norm_ratios(model, inputs).log10():
        layers = []
        for layer in (logs * RATIO_BINS).floor():
            counts = Counter(int(value) for value in layer[layer.isfinite()].tolist())
            layers.append({str(value): count for value, count in sorted(counts.items())})
        results.append({"ratio_bins": layers})
    return results


NORM_RATIOS = Measurement("norms", _count_ratios)
"""The norm of the residual stream over that of its update, for every token and layer."""


# Tables and what they say.


def _ratios(results: Results) -> list[list[Any]]:
    counts: dict[int, Counter[int]] = defaultdict(Counter)
    for cell in results.cells:
        if cell.kind == NORM_RATIOS.kind:
            for layer, bins in enumerate(results.record(cell)["ratio_bins"], 1):
                counts[layer].update({int(place): count for place, count in bins.items()})
    rows = []
    for layer, found in sorted(counts.items()):
        logs = quantiles_of_counts(found, list(QUANTILES.values()), 1 / RATIO_BINS)
        rows.append([layer, found.total(), *(rounded(10**value) for value in logs)])
    return rows


def _median_findings(rows: Sequence[TableRow]) -> list[str]:
    known = [(number(row, "median"), number(row, "layer")) for row in rows]
    medians = [(value, layer) for value, layer in known if value is not None and layer is not None]
    if not medians:
        return []
    least, most = min(medians), max(medians)
    return [
        f"The embedding is {short(float(f'{least[0]:.3g}'))} (layer {short(least[1])}) to "
        f"{short(float(f'{most[0]:.3g}'))} times (layer {short(most[1])}) as long as its update, "
        "in the median."
    ]


RATIOS = Table(
    "norms",
    "Norm of the residual stream over the norm of what attention adds",
    (
        Column("layer"),
        Column("tokens"),
        Column("p5", "5 %"),
        Column("p25", "25 %"),
        Column("median"),
        Column("p75", "75 %"),
        Column("p95", "95 %"),
    ),
    rows=_ratios,
    findings=_median_findings,
    note="quantiles over tokens, from bins of a hundredth of a factor of ten",
)


def _by_length(results: Results) -> list[list[Any]]:
    levels = levels_of(results, INFLUENCE.kind)
    rows_of = {cell.row.digest: cell.row for cell in results.cells if cell.kind == INFLUENCE.kind}
    groups: dict[tuple[Any, ...], list[tuple[str, float]]] = defaultdict(list)
    for digest, row in rows_of.items():
        for form, values in levels[digest].items():
            if form_name(form) in _SHOWN:
                for layer, value in enumerate(values[1:], 1):
                    groups[form_name(form), layer, row.task, row.length].append(
                        (row.document, value)
                    )
    return [
        [name, layer, task, *length, len(values), *rate(values)]
        for (name, layer, task, length), values in sorted(groups.items())
    ]


def _by_length_findings(rows: Sequence[TableRow]) -> list[str]:
    """Say by which factor each predictor changes from the shortest to the longest texts."""
    sentences = []
    for predictor in dict.fromkeys(text(row, PREDICTOR_COLUMN.name) for row in rows):
        own = [row for row in rows if text(row, PREDICTOR_COLUMN.name) == predictor]
        last = max((number(row, "layer") or 0.0 for row in own), default=0.0)
        factors = []
        for task in dict.fromkeys(text(row, TASK_COLUMN.name) for row in own):
            chosen = sorted(
                (number(row, "length_from") or 0.0, mean)
                for row in own
                if text(row, TASK_COLUMN.name) == task and (number(row, "layer") or 0.0) == last
                for mean in [number(row, "mean")]
                if mean is not None
            )
            if len(chosen) > 1 and chosen[0][1] > 0:
                factors.append(f"×{chosen[-1][1] / chosen[0][1]:.2f} ({TASK_COLUMN.word(task)})")
        if factors:
            name = PREDICTOR_COLUMN.word(predictor)
            sentences.append(
                f"{name[0].upper()}{name[1:]} after layer {short(last)}, from the shortest to the "
                f"longest texts: {', '.join(factors)}."
            )
    return sentences


BY_LENGTH = Table(
    "norms_by_length",
    "Influence and rollout at the end of the prompt, by length",
    (
        PREDICTOR_COLUMN,
        Column("layer"),
        TASK_COLUMN,
        *LENGTH,
        Column("cases"),
        *with_interval(Column("mean")),
    ),
    rows=_by_length,
    findings=_by_length_findings,
)


# Figures and the report.


def _draw_ratios(record: StudyRecord, palette: Palette) -> Any:
    from guide_ext.studies.report.distributions import draw_boxes

    return draw_boxes(
        record,
        palette,
        table=RATIOS.name,
        title="Norm of the embedding over norm of the update "
        "(box: quartiles and median; whiskers: 5 to 95 %)",
        place="layer",
        quantiles=tuple(QUANTILES),
        label="|E| / |U|, log scale",
    )


def _draw_by_length(record: StudyRecord, palette: Palette) -> Any:
    from guide_ext.studies.report.distributions import draw_over_length

    return draw_over_length(
        record,
        palette,
        table=BY_LENGTH.name,
        title="Influence and rollout of the instruction over the length of the text",
        column="mean",
        panel_column=PREDICTOR_COLUMN.name,
        color_column=TASK_COLUMN.name,
        dash_column="layer",
        label="mean, log scale",
    )


STUDY = Study(
    name="norms",
    title="norms before and after attention, and Influence over length",
    paper="App. A, Fig. 3",
    tasks=(french.TASK, json_template.TASK),
    answers=False,
    measurements=(INFLUENCE, NORM_RATIOS),
    sections=(
        Section(
            "norms",
            "Why Influence weighs by norms",
            "Fig. 3",
            (RATIOS, BY_LENGTH),
            drawings=(
                Drawing(
                    "norms",
                    RATIOS,
                    "A box for every layer: the ratio of the norms of embedding and update, on a "
                    "logarithmic scale",
                    _draw_ratios,
                ),
                Drawing(
                    "norms_by_length",
                    BY_LENGTH,
                    "Influence and rollout of the instruction over the length of the text, on a "
                    "logarithmic scale",
                    _draw_by_length,
                ),
            ),
            claims=(
                Claim(
                    MISTRAL,
                    "norms",
                    "the norm of the embedding is typically about 100 times that of the update",
                    "Section 2, Appendix A",
                ),
                Claim(
                    MISTRAL,
                    "norms_by_length",
                    "rollout increases with the length of the context, and Influence decreases",
                    "Appendix A",
                ),
            ),
        ),
    ),
)
