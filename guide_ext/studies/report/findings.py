# SPDX-License-Identifier: MIT
"""What the tables of a run say, in plain sentences with their numbers; nothing is judged by eye."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from guide_ext.studies.report.record import Estimate, Row, StudyRecord, estimate, number, text

TASKS = {"french": "French", "needle": "Needle", "json": "JSON"}
PREDICTORS = {
    "influence": "Influence",
    "exact": "Influence, exact",
    "authors": "Influence, authors' code",
    "rollout": "attention rollout",
    "raw": "raw attention",
}


@dataclass(frozen=True)
class Study:
    """One study of the paper.

    Attributes:
        name: Of its section, and of the samples that belong to it.
        title: What to call it.
        tables: Its tables; it is shown if there is one of them.
        place: Where the paper shows it.

    """

    name: str
    title: str
    tables: tuple[str, ...]
    place: str


STUDIES = (
    Study("french", "Summaries in French", ("french", "french_by_length"), "Fig. 2a, 5"),
    Study("sft", "GUIDE beside fine-tuning", ("sft",), "Fig. 2b"),
    Study(
        "french_quality",
        "Quality of the summaries",
        ("french_quality", "french_quality_density"),
        "Tables 1, 2, Fig. 4",
    ),
    Study("needle", "A needle in a haystack", ("needle", "needle_grid"), "Fig. 6"),
    Study("json", "JSON by a template", ("json", "json_by_length"), "Fig. 7"),
    Study("predictor", "Influence as a predictor", ("predictor",), "Table 3"),
    Study(
        "norms",
        "Why Influence weighs by norms",
        ("norms", "norms_by_length"),
        "Fig. 3",
    ),
    Study("delta_limit", "Where Δ is too large", ("delta_limit",), "Appendix E"),
)


def shown_studies(record: StudyRecord) -> list[Study]:
    """Return the studies of which the run has a table."""
    return [study for study in STUDIES if any(name in record.tables for name in study.tables)]


def findings(record: StudyRecord, study: Study) -> list[str]:
    """Return sentences about a study, computed from its tables.

    Args:
        record: The tables.
        study: One of `STUDIES`.

    Returns:
        Plain text; empty where the tables hold too few numbers.

    """
    return [
        sentence
        for name in study.tables
        if name in record.tables
        for sentence in _FINDINGS[name](record.rows(name))
    ]


def fixed(value: float, digits: int = 2) -> str:
    """Write a number with a real minus.

    Example:
        >>> fixed(-0.358)
        '−0.36'

    """
    return f"{value:.{digits}f}".replace("-", "−")


def short(value: float) -> str:
    """Write a number of any size; whole ones in groups of thousands.

    Example:
        >>> short(1500000.0), short(0.5), short(-0.00012345)
        ('1,500,000', '0.5', '−0.0001234')

    """
    written = f"{int(value):,}" if float(value).is_integer() else f"{value:.4g}"
    return written.replace("-", "−")


def span(row: Row) -> str:
    """Write which lengths a row is about.

    Example:
        >>> span({"length_from": 500, "length_to": 1000})
        '500–1,000'

    """
    start, end = number(row, "length_from"), number(row, "length_to")
    return "–".join("?" if value is None else short(value) for value in (start, end))


def predictor_name(name: str) -> str:
    """Return what to call a predictor."""
    return PREDICTORS.get(name, name)


def task_name(name: str) -> str:
    """Return what to call a task."""
    return TASKS.get(name, name)


def guided(rows: Iterable[Row], column: str) -> list[tuple[float, Estimate]]:
    """Return Δ and value of the rows without prompt engineering, by Δ."""
    found = []
    for row in rows:
        delta, value = number(row, "delta"), estimate(row, column)
        if text(row, "style") in ("plain", "") and delta is not None and value is not None:
            found.append((delta, value))
    return sorted(found, key=lambda pair: pair[0])


def baselines(rows: Iterable[Row], column: str) -> list[tuple[str, Estimate]]:
    """Return name and value of the rows with prompt engineering."""
    found = []
    for row in rows:
        value = estimate(row, column)
        if text(row, "style") not in ("plain", "") and value is not None:
            found.append((text(row, "condition"), value))
    return found


def _overlap(one: Estimate, other: Estimate) -> str:
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return ""
    apart = one.high < other.low or other.high < one.low
    return f"; the 95 % intervals {'do not overlap' if apart else 'overlap'}"


def _over_delta(noun: str, rows: Sequence[Row], column: str) -> list[str]:
    """Compare the best Δ with none, then with prompt engineering."""
    found = guided(rows, column)
    base = next((value for delta, value in found if delta == 0), None)
    others = [(delta, value) for delta, value in found if delta != 0]
    parts = [] if base is None else [f"{fixed(base.value)} at Δ = 0"]
    tail = ""
    if others:
        delta, best = max(others, key=lambda pair: pair[1].value)
        part = f"{fixed(best.value)} at Δ = {short(delta)}"
        if base is not None:
            # Of the numbers as they are shown, so that a reader's sum comes out.
            gain = round(best.value, 2) - round(base.value, 2)
            part += f" ({'+' if gain >= 0 else ''}{fixed(gain)})"
            tail = _overlap(base, best)
        if len(others) > 1:
            part += f", the highest of {len(others)} strengths"
        parts.append(part)
    sentences = [f"{noun}: {', '.join(parts)}{tail}."] if parts else []
    engineered = [f"{name} {fixed(value.value)}" for name, value in baselines(rows, column)]
    if engineered:
        sentences.append(f"Without Δ, by wording: {', '.join(engineered)}.")
    return sentences


def _french(rows: Sequence[Row]) -> list[str]:
    right = _over_delta("Right in every word", rows, "right")[:1]
    return [*_over_delta("In French", rows, "in_french"), *right]


def _ends(noun: str, rows: Sequence[Row], column: str) -> list[str]:
    """Compare the shortest texts with the longest at Δ = 0."""
    found = sorted(
        (row for row in rows if number(row, "delta") == 0 and text(row, "style") == "plain"),
        key=lambda row: number(row, "length_from") or 0.0,
    )
    known = [(row, number(row, column)) for row in found]
    values = [(row, value) for row, value in known if value is not None]
    if len(values) < 2:
        return []
    (first, high), (last, low) = values[0], values[-1]
    return [
        f"At Δ = 0, {noun}: {fixed(high)} for texts of {span(first)} tokens, "
        f"{fixed(low)} for {span(last)}."
    ]


def _quality(rows: Sequence[Row]) -> list[str]:
    found = guided(rows, "win_rate")
    if not found:
        return []
    listed = ", ".join(f"{fixed(value.value)} at Δ = {short(delta)}" for delta, value in found)
    below = [short(delta) for delta, value in found if value.high is not None and value.high < 0.5]
    tail = f"; clearly below at Δ = {', '.join(below)}" if below else ""
    return [
        f"Share of pairs that the guided summary wins by BERTScore: {listed} (0.5 is a draw{tail})."
    ]


def _density(rows: Sequence[Row]) -> list[str]:
    means = []
    for language, name in (("french", "in French"), ("other", "in another language")):
        cells = [
            (share, (start + end) / 2)
            for row in rows
            if text(row, "language") == language
            for start, end, share in [
                (number(row, "from"), number(row, "to"), number(row, "share"))
            ]
            if start is not None and end is not None and share is not None
        ]
        total = sum(share for share, _ in cells)
        if total > 0:
            mean = sum(share * middle for share, middle in cells) / total
            means.append(f"{fixed(mean)} {name}")
    return [f"Mean BERTScore, read off the bins: {', '.join(means)}."] if means else []


def _grid(rows: Sequence[Row]) -> list[str]:
    known = [(number(row, "found"), row) for row in rows if number(row, "delta") == 0]
    cells = [(value, row) for value, row in known if value is not None]
    if not cells:
        return []
    worst, row = min(cells, key=lambda cell: cell[0])
    start, end = number(row, "depth_from") or 0.0, number(row, "depth_to") or 0.0
    return [
        f"Hardest place at Δ = 0: {fixed(worst)} in texts of {span(row)} tokens, "
        f"{short(100 * start)}–{short(100 * end)} % into the text."
    ]


def _json(rows: Sequence[Row]) -> list[str]:
    authors = _over_delta("The authors' score", rows, "authors")[:1]
    return [*_over_delta("Jaccard index of the keys", rows, "jaccard"), *authors]


def _predictor(rows: Sequence[Row]) -> list[str]:
    sentences = []
    for task in dict.fromkeys(text(row, "task") for row in rows):
        found = {text(row, "predictor"): row for row in rows if text(row, "task") == task}
        influence = found.get("influence")
        value = influence and estimate(influence, "auc")
        if influence is None or not isinstance(value, Estimate):
            continue
        sentence = f"{task_name(task)}: AUC of Influence {fixed(value.value)}{_interval(value)}"
        length = number(found.get("1 / length", {}), "auc")
        if length is not None:
            sentence += f", of the plain 1 / length {fixed(length)}"
        within = estimate(influence, "auc_within")
        if within is not None:
            sentence += (
                f"; among texts of one length, Influence {fixed(within.value)}{_interval(within)}"
            )
        sentences.append(f"{sentence}.")
    return sentences


def _interval(value: Estimate) -> str:
    if value.low is None or value.high is None:
        return ""
    return f" [{fixed(value.low)}, {fixed(value.high)}]"


def _norms(rows: Sequence[Row]) -> list[str]:
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


def _norms_by_length(rows: Sequence[Row]) -> list[str]:
    """Say by which factor each predictor changes from the shortest to the longest texts."""
    sentences = []
    for predictor in dict.fromkeys(text(row, "predictor") for row in rows):
        own = [row for row in rows if text(row, "predictor") == predictor]
        last = max((number(row, "layer") or 0.0 for row in own), default=0.0)
        factors = []
        for task in dict.fromkeys(text(row, "task") for row in own):
            chosen = sorted(
                (
                    (number(row, "length_from") or 0.0, mean)
                    for row in own
                    if text(row, "task") == task and (number(row, "layer") or 0.0) == last
                    for mean in [number(row, "mean")]
                    if mean is not None
                ),
            )
            if len(chosen) > 1 and chosen[0][1] > 0:
                factors.append(f"×{chosen[-1][1] / chosen[0][1]:.2f} ({task_name(task)})")
        if factors:
            name = predictor_name(predictor)
            sentences.append(
                f"{name[0].upper()}{name[1:]} after layer {short(last)}, from the shortest to the "
                f"longest texts: {', '.join(factors)}."
            )
    return sentences


def _limit(rows: Sequence[Row]) -> list[str]:
    sentences = []
    for noun, column in (
        ("In French", "in_french"),
        ("Right in every word", "right"),
        ("Well-formed", "well_formed"),
        ("Mostly repeating themselves", "repeated"),
    ):
        found = guided(rows, column)
        if len(found) < 2:
            continue
        best = max(found, key=lambda pair: pair[1].value)
        listed = sorted({pair[0]: pair[1] for pair in (found[0], best, found[-1])}.items())
        shown = (f"{fixed(value.value)} at Δ = {short(delta)}" for delta, value in listed)
        sentences.append(f"{noun}: {', '.join(shown)}.")
    return sentences


def _sft(rows: Sequence[Row]) -> list[str]:
    def best(method: str) -> tuple[Estimate, Row] | None:
        known = [(estimate(row, "in_french"), row) for row in rows if text(row, "method") == method]
        found = [(value, row) for value, row in known if value is not None]
        return max(found, key=lambda pair: pair[0].value, default=None)

    plain, steered, tuned = best("plain"), best("guide"), best("sft")
    parts = [] if plain is None else [f"plain {fixed(plain[0].value)}"]
    if steered is not None:
        delta = number(steered[1], "delta")
        strength = "" if delta is None else f" (Δ = {short(delta)})"
        parts.append(f"GUIDE {fixed(steered[0].value)}{strength}")
    if tuned is not None:
        tokens = number(tuned[1], "tokens")
        after = "" if tokens is None else f" after {short(tokens)} tokens"
        parts.append(f"fine-tuning {fixed(tuned[0].value)}{after}")
    sentences = [f"In French: {', '.join(parts)}."] if parts else []
    if steered is not None and tuned is not None:
        passed = sorted(
            tokens
            for row in rows
            if text(row, "method") == "sft"
            for value, tokens in [(number(row, "in_french"), number(row, "tokens"))]
            if value is not None and tokens is not None and value > steered[0].value
        )
        sentences.append(
            f"Fine-tuning is first ahead of GUIDE after {short(passed[0])} tokens."
            if passed
            else "Fine-tuning is never ahead of GUIDE here."
        )
    return sentences


_FINDINGS: dict[str, Callable[[Sequence[Row]], list[str]]] = {
    "french": _french,
    "french_by_length": lambda rows: _ends("in French", rows, "in_french"),
    "french_quality": _quality,
    "french_quality_density": _density,
    "needle": lambda rows: _over_delta("Needle found", rows, "found"),
    "needle_grid": _grid,
    "json": _json,
    "json_by_length": lambda rows: _ends("Jaccard index", rows, "jaccard"),
    "predictor": _predictor,
    "norms": _norms,
    "norms_by_length": _norms_by_length,
    "delta_limit": _limit,
    "sft": _sft,
}
