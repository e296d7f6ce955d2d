# SPDX-License-Identifier: MIT
"""The study `sft`: after how much fine-tuning is the instruction followed as often as with GUIDE?

Models are fine-tuned with LoRA on right summaries in French and asked after several numbers of
trained tokens, beside the plain model with and without Δ. `guide_ext.studies.training` trains them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from guide_ext.studies.french import IN_FRENCH, SUMMARY, TASK, summary_values
from guide_ext.studies.report.paper import MISTRAL, Claim
from guide_ext.studies.report.section import Drawing, Section
from guide_ext.studies.report.sentences import fixed, short
from guide_ext.studies.study import Study
from guide_ext.studies.tables.reading import Estimate, TableRow, estimate, number, text
from guide_ext.studies.tables.results import Answer, Results, grouped
from guide_ext.studies.tables.table import DELTA, Column, Kind, Table
from guide_ext.support.extras import Package

if TYPE_CHECKING:
    from guide_ext.studies.report.panels import Palette
    from guide_ext.studies.report.record import StudyRecord

_PLAIN, _GUIDE, _TUNED = "plain", "guide", "sft"
_METHODS = {_GUIDE: "GUIDE", _TUNED: "fine-tuning"}


def _rows(results: Results) -> list[list[Any]]:
    def method(answer: Answer) -> tuple[str, int | None, float | None]:
        cell = answer.cell
        if cell.adapter is not None:
            return _TUNED, cell.adapter, None
        return (_GUIDE if cell.condition.delta else _PLAIN), None, cell.condition.delta

    groups = grouped(results.answers, method)
    return [
        [name, tokens, delta, *summary_values(found)]
        for (name, tokens, delta), found in sorted(
            groups.items(),
            key=lambda item: (item[0][0] == _TUNED, item[0][1] or 0, item[0][2] or 0),
        )
    ]


def _findings(rows: Sequence[TableRow]) -> list[str]:
    def best(method: str) -> tuple[Estimate, TableRow] | None:
        known = [
            (estimate(row, IN_FRENCH.name), row) for row in rows if text(row, "method") == method
        ]
        found = [(value, row) for value, row in known if value is not None]
        return max(found, key=lambda pair: pair[0].value, default=None)

    plain, steered, tuned = best(_PLAIN), best(_GUIDE), best(_TUNED)
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
        passed = sorted(tokens for tokens, value in _tuned(rows) if value.value > steered[0].value)
        sentences.append(
            f"Fine-tuning is first ahead of GUIDE after {short(passed[0])} tokens."
            if passed
            else "Fine-tuning is never ahead of GUIDE here."
        )
    return sentences


def _tuned(rows: Sequence[TableRow]) -> list[tuple[float, Estimate]]:
    """Return tokens trained on and share in French of the fine-tuned models, by tokens."""
    known = [
        (number(row, "tokens"), estimate(row, IN_FRENCH.name))
        for row in rows
        if text(row, "method") == _TUNED
    ]
    found = [(tokens, value) for tokens, value in known if tokens is not None and value is not None]
    return sorted(found, key=lambda point: point[0])


METHODS = Table(
    "sft",
    "Fine-tuning with LoRA, over the tokens trained on, beside GUIDE",
    (Column("method", kind=Kind.TEXT, words=_METHODS), Column("tokens"), DELTA, *SUMMARY),
    rows=_rows,
    findings=_findings,
)


def _draw(record: StudyRecord, palette: Palette) -> Any:
    from guide_ext.studies.report import panels

    figure, (panel,) = panels.canvas(
        record, panels.amount(record, METHODS.name), "Fine-tuning beside GUIDE", palette
    )
    rows = record.rows(METHODS.name)
    tuned = _tuned(rows)
    unit, noun = (1e6, "millions of ") if max([0.0, *(x for x, _ in tuned)]) >= 1e6 else (1.0, "")
    points = tuple((tokens / unit, value) for tokens, value in tuned)
    line = panels.Series("fine-tuning (LoRA)", points, palette.accents[1], "s")
    panels.draw_series(panel, [line])
    levels = 0
    for row in rows:
        value, delta = estimate(row, IN_FRENCH.name), number(row, "delta")
        if value is None or text(row, "method") == _TUNED:
            continue
        is_plain = text(row, "method") == _PLAIN
        strength = "" if delta is None or is_plain else f", Δ = {short(delta)}"
        label = "plain" if is_plain else f"GUIDE{strength}"
        color = palette.soft if is_plain else palette.accents[0]
        dash = 1 if is_plain else 2 * levels % 4  # solid first, then dotted
        panels.draw_level(panel, label, value, color, panels.DASHES[dash])
        levels += not is_plain
    panel.set_xlabel(f"{noun}tokens trained on")
    panels.rate_axis(panel, "share in French")
    panels.legend(figure, [panel], palette)
    return figure


STUDY = Study(
    name="sft",
    title="fine-tuning with LoRA against GUIDE, over the tokens trained on",
    paper="Section 3, Fig. 2b; App. D",
    tasks=(TASK,),
    deltas=(0.0, 2.0),
    trains_on="French summaries",
    needs=(Package("peft", "to fine-tune"),),
    sections=(
        Section(
            "sft",
            "GUIDE beside fine-tuning",
            "Fig. 2b",
            (METHODS,),
            drawings=(
                Drawing(
                    "sft",
                    METHODS,
                    "Share in French over the tokens that fine-tuning has seen, with GUIDE and the "
                    "plain model as levels",
                    _draw,
                ),
            ),
            claims=(
                Claim(
                    MISTRAL,
                    "sft",
                    "GUIDE is better than supervised fine-tuning until 1M training tokens",
                    "Section 3",
                ),
            ),
            in_main_text=True,
        ),
    ),
)
