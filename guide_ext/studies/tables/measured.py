# SPDX-License-Identifier: MIT
"""Tables of what was measured: predictors, norms, the quality of summaries, fine-tuning."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from guide_ext.influence.forms import FORMS
from guide_ext.studies.study import MEASURE, NORMS, RATIO_BINS, STUDIES, Cell
from guide_ext.studies.tables import metrics
from guide_ext.studies.tables.statistics import (
    Cases,
    area,
    area_within,
    correlation,
    quantiles_of_counts,
    rate,
    rounded,
    with_interval,
)
from guide_ext.studies.tables.tables import (
    SUMMARY,
    Answer,
    Results,
    Table,
    condition_of,
    grouped,
    spread,
    summary_cells,
    table,
)

LENGTH = "1 / length"
_NAMES = {"paper": "influence"}  # the paper's form is what the paper calls Influence
_QUANTILES = {"p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}
_DRAWN = ("influence", "rollout")
_HISTOGRAM_BINS = 20


def predictor(results: Results) -> list[Table]:
    """Table 3: does anything measured on the prompt foretell success?"""
    study = STUDIES["predictor"]
    measured = _levels(results, results.cells(study))
    answers = results.answers(study)
    rows = []
    for task in study.tasks:
        found = [
            answer
            for answer in answers
            if answer.cell.row.task == task and answer.cell.row.digest in measured
        ]
        if not found:
            continue
        success = np.array([answer.scores[metrics.SUCCESS[task]] >= 1 for answer in found])
        documents = _numbers([answer.cell.row.document for answer in found])
        lengths = _numbers([answer.cell.row.length for answer in found])
        predictors = {
            _NAMES.get(form, form): [measured[a.cell.row.digest][form][-1] for a in found]
            for form in FORMS
        }
        predictors[LENGTH] = [1 / answer.cell.row.tokens for answer in found]
        for name, values in predictors.items():
            cases = Cases(documents, np.array(values, dtype=np.float64), success, lengths)
            rows.append(
                [
                    task, name, len(found), rounded(float(success.mean())),
                    *with_interval(cases, area), *with_interval(cases, area_within),
                    *with_interval(cases, correlation),
                ]
            )  # fmt: skip
    return [
        table(
            "predictor",
            "What foretells success",
            ["task", "predictor", "cases", "success", *spread("auc"), *spread("auc_within"),
             *spread("correlation")],
            rows,
            "auc_within: only texts of one range of lengths are compared with each other; success: "
            "in French, the needle found, exactly the keys of the template",
        )
    ]  # fmt: skip


def norms(results: Results) -> list[Table]:
    """Fig. 3: norms before and after attention; Influence and rollout over length."""
    cells = results.cells(STUDIES["norms"])
    counts: dict[int, Counter[int]] = defaultdict(Counter)
    for cell in cells:
        if cell.kind == NORMS:
            for layer, bins in enumerate(results.record(cell)["ratio_bins"], 1):
                counts[layer].update({int(place): count for place, count in bins.items()})
    ratios = []
    for layer, found in sorted(counts.items()):
        logs = quantiles_of_counts(found, list(_QUANTILES.values()), 1 / RATIO_BINS)
        ratios.append([layer, found.total(), *(rounded(10**value) for value in logs)])
    measured = _levels(results, cells)
    rows_of = {cell.row.digest: cell.row for cell in cells if cell.kind == MEASURE}
    groups: dict[tuple[Any, ...], list[tuple[str, float]]] = defaultdict(list)
    for digest, row in rows_of.items():
        for form, levels in measured[digest].items():
            name = _NAMES.get(form, form)
            if name in _DRAWN:
                for layer, value in enumerate(levels):
                    if layer:
                        groups[name, layer, row.task, row.length].append((row.document, value))
    by_length = [
        [name, layer, task, *length, len(values), *rate(values)]
        for (name, layer, task, length), values in sorted(groups.items())
    ]
    return [
        table(
            "norms",
            "Norm of the residual stream over the norm of what attention adds",
            ["layer", "tokens", *_QUANTILES],
            ratios,
            "quantiles over tokens, from bins of a hundredth of a factor of ten",
        ),
        table(
            "norms_by_length",
            "Influence and rollout at the end of the prompt, by length",
            ["predictor", "layer", "task", "length_from", "length_to", "cases", *spread("mean")],
            by_length,
        ),
    ]


def french_quality(results: Results) -> list[Table]:
    """Fig. 4, Tables 1 and 2: BERTScore of summaries, against those without GUIDE."""
    settings = results.settings
    if settings.bertscore is None:
        return []
    answers = [a for a in results.answers(STUDIES["french"]) if a.cell.row.answer]
    scores = dict(
        zip(
            (answer.cell.key for answer in answers),
            metrics.bert_scores(
                [answer.text for answer in answers],
                [answer.cell.row.answer for answer in answers],
                settings.bertscore,
                layer=settings.bertscore_layer,
            ),
            strict=True,
        )
    )
    return [_win_rates(answers, scores), _densities(answers, scores)]


def _win_rates(answers: Sequence[Answer], scores: dict[str, float]) -> Table:
    def pair(answer: Answer) -> tuple[str, int]:
        return answer.cell.row.digest, answer.cell.sample

    plain = {pair(a): a for a in answers if a.cell.condition.name == "Δ = 0"}
    rows = []
    for condition, found in grouped(answers, condition_of).items():
        if condition.style.value != "plain" or condition.delta == 0:
            continue
        wins = [
            (a.cell.row.document, float(scores[a.cell.key] > scores[plain[pair(a)].cell.key]))
            for a in found
            if a.scores["in_french"] and pair(a) in plain and plain[pair(a)].scores["in_french"]
        ]
        rows.append([condition.delta, len(wins), *rate(wins)])
    return table(
        "french_quality",
        "How often the guided summary has the higher BERTScore",
        ["delta", "pairs", *spread("win_rate")],
        rows,
        "pairs: documents and samples whose summaries are in French with and without GUIDE",
    )


def _densities(answers: Sequence[Answer], scores: dict[str, float]) -> Table:
    values = np.array([scores[answer.cell.key] for answer in answers])
    is_french = np.array([answer.scores["in_french"] >= 1 for answer in answers], dtype=bool)
    rows = []
    if len(values):
        edges = np.linspace(values.min(), values.max() + 1e-9, _HISTOGRAM_BINS + 1)
        for name, chosen in (("french", is_french), ("other", ~is_french)):
            counts, _ = np.histogram(values[chosen], edges)
            total = max(1, int(counts.sum()))
            rows += [
                [name, rounded(low), rounded(high), rounded(count / total)]
                for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
            ]
    return table(
        "french_quality_density",
        "BERTScore of summaries in French and of others",
        ["language", "from", "to", "share"],
        rows,
    )


def sft(results: Results) -> list[Table]:
    """Fig. 2b: fine-tuning over training tokens, beside GUIDE."""

    def method(answer: Answer) -> tuple[str, int | None, float | None]:
        cell = answer.cell
        if cell.adapter is not None:
            return "sft", cell.adapter, None
        return ("guide" if cell.condition.delta else "plain"), None, cell.condition.delta

    groups = grouped(results.answers(STUDIES["sft"]), method)
    rows = [
        [name, tokens, delta, *summary_cells(found)]
        for (name, tokens, delta), found in sorted(
            groups.items(), key=lambda item: (item[0][0] == "sft", item[0][1] or 0, item[0][2] or 0)
        )
    ]  # fmt: skip
    return [
        table(
            "sft",
            "Fine-tuning with LoRA, over the tokens trained on, beside GUIDE",
            ["method", "tokens", "delta", *SUMMARY],
            rows,
        )
    ]  # fmt: skip


def _levels(results: Results, cells: Sequence[Cell]) -> dict[str, dict[str, list[float]]]:
    """Return what was measured of every prompt, by the hash of its row."""
    return {
        cell.row.digest: results.record(cell)["levels"] for cell in cells if cell.kind == MEASURE
    }


def _numbers(names: Sequence[Any]) -> Any:
    """Number names in the order in which they first come."""
    known = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([known[name] for name in names], dtype=np.int64)
