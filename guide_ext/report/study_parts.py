# SPDX-License-Identifier: MIT
"""The parts of the page about the studies, as HTML; every text in it is escaped here."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from guide_ext.experiments.studies import paper
from guide_ext.report.influence_record import visible
from guide_ext.report.study_cells import Column, cell_text, columns_of, head_of
from guide_ext.report.study_figures import Drawing, described
from guide_ext.report.study_findings import (
    Study,
    findings,
    fixed,
    predictor_name,
    short,
    shown_studies,
    task_name,
)
from guide_ext.report.study_record import Cell, Row, Sample, StudyRecord, Table, number, text

_MOST_OPEN = 14  # rows of a table that need no click to be seen
_NUMERIC = ' class="number"'


def _text(value: str) -> str:
    return html.escape(visible(value), quote=True)


def _sentence(value: str) -> str:
    """Return a text of which no “Δ = 2” and no “95 %” is torn apart at the end of a line."""
    joined = _text(value).replace("Δ = ", "Δ\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")
    return joined.replace(" %", "\N{NO-BREAK SPACE}%")


def _lines(value: str) -> str:
    """Return a text with its line breaks alive and everything else visible."""
    return "\n".join(_text(line) for line in value.split("\n"))


def table_block(table: Table, place: str) -> str:
    """Return a table that scrolls by itself and can be reached by keyboard; long ones are folded.

    Args:
        table: What to show.
        place: A name that no other element of the page has.

    """
    columns = columns_of(table)
    heads = "".join(
        f'<th scope="col"{_NUMERIC if index and not column.is_text else ""}>'
        f"{_text(column.head)}</th>"
        for index, column in enumerate(columns)
    )
    rows = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row">{_text(cell_text(column, row))}</th>'
            if index == 0
            else f"<td{'' if column.is_text else _NUMERIC}>{_text(cell_text(column, row))}</td>"
            for index, column in enumerate(columns)
        )
        + "</tr>"
        for row in table.rows
    )
    note = f'<p class="hint">{_text(table.note)}</p>' if table.note else ""
    block = scrolling(
        f'<table><caption id="{place}">{_text(table.title)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>",
        place,
    )
    if len(table.rows) <= _MOST_OPEN:
        return block + note
    return (
        f"<details><summary>{_text(table.title)}: {len(table.rows)} rows</summary>"
        f"{block}{note}</details>"
    )


def scrolling(content: str, label: str) -> str:
    """Return a box that scrolls sideways, also by keyboard."""
    return f'<div class="wide" role="region" tabindex="0" aria-labelledby="{label}">{content}</div>'


def header(record: StudyRecord) -> str:
    """Say what was run on what."""
    model = paper.model_of(record.model)
    if record.world == "embedded":
        world = (
            "The world of these documents is constructed: a small model and texts made for it. Its "
            "numbers show whether the effects are there, not how large they are elsewhere; the "
            "paper's are of another model and therefore not beside them."
        )
    elif model is None:
        world = "The paper ran other models, so that its numbers are not beside these."
    else:
        world = (
            "Beside the numbers of this run stand those that the paper and the authors' notebooks "
            "print for this model."
        )
        if model == paper.MISTRAL:
            world += " The notebooks ran Mistral-7B-Instruct-v0.1 in four bits."
    failed = len(record.failures)
    cases = "1 case" if failed == 1 else f"{failed} cases"
    state = f'<a href="#failures">{cases} failed</a>' if failed else "no case failed"
    return f"""<header>
<h1>The studies of “Pay Attention to What Matters”</h1>
<p>Model <b>{_text(record.model)}</b>; {state}. Shares are from 0 to 1, intervals 95 %, and Δ is the
bias of the marked text in nats.</p>
<p>{_text(world)}</p>
</header>"""


def contents(record: StudyRecord) -> str:
    """Link every study, with the first thing that was found."""
    rows = []
    for study in shown_studies(record):
        found = findings(record, study)
        first = f"<span>{_sentence(found[0])}</span>" if found else ""
        rows.append(f'<li><a href="#{study.name}">{study.title}</a>{first}</li>')
    if not rows:
        return ""
    return f'<nav aria-label="Studies"><ol>{"".join(rows)}</ol></nav>'


def study_section(
    record: StudyRecord, study: Study, pictures: Sequence[tuple[Drawing, bytes, bytes]]
) -> str:
    """Show a study: what was found, figures, the paper's numbers, tables, answers."""
    found = " ".join(map(_sentence, findings(record, study)))
    lead = f'<p class="finding">{found}</p>' if found else ""
    figures = "".join(figure(record, *one) for one in pictures if one[0].study == study.name)
    tables = "".join(
        table_block(record.tables[name], f"table-{name}")
        for name in study.tables
        if name in record.tables
    )
    samples = "".join(sample_block(one) for one in record.samples if one.study == study.name)
    answers = (
        f"<details><summary>Answers to be read</summary>{samples}</details>" if samples else ""
    )
    return f"""<section aria-labelledby="{study.name}">
<h2 id="{study.name}">{study.title} <small>paper: {study.place}</small></h2>
{lead}{figures}{beside_paper(record, study)}{tables}{answers}</section>"""


def figure(record: StudyRecord, drawing: Drawing, light: bytes, dark: bytes) -> str:
    """Show a figure in the reader's colours, with words for who does not see it."""
    sources = ["data:image/png;base64," + base64.b64encode(one).decode() for one in (light, dark)]
    alt = _text(described(record, drawing))
    return f"""<div class="figure" role="region" tabindex="0" aria-label="Figure: {drawing.name}">
<picture><source media="(prefers-color-scheme: dark)" srcset="{sources[1]}">
<img src="{sources[0]}" alt="{alt}"></picture></div>"""


def _found_beside(record: StudyRecord, name: str, key: Mapping[str, Cell]) -> Row | None:
    return next(
        (
            row
            for row in record.rows(name)
            if all(
                text(row, column) == cell if isinstance(cell, str) else number(row, column) == cell
                for column, cell in key.items()
            )
        ),
        None,
    )


def _by_delta(key: paper.Key) -> tuple[bool, float]:
    """Sort Δ upwards before wordings; what has no Δ keeps its order."""
    cells = dict(key)
    return cells.get("style", "plain") != "plain", float(cells.get("delta", 0.0))


def _quantity(key: Mapping[str, Cell], column: str) -> str:
    """Name what is compared."""
    parts = [head_of(column)]
    if "task" in key:
        parts.append(task_name(str(key["task"])))
    if "predictor" in key:
        parts.append(predictor_name(str(key["predictor"])))
    if key.get("style", "plain") != "plain":
        parts.append({"upper": "upper case", "important": "“Important:”"}[str(key["style"])])
    elif "delta" in key:
        parts.append(f"Δ = {short(float(str(key['delta'])))}")
    return ", ".join(parts)


def beside_paper(record: StudyRecord, study: Study) -> str:
    """Show what the paper prints for the same model beside what this run found."""
    model = paper.model_of(record.model) if record.world == "documents" else None
    rows: dict[tuple[str, paper.Key, str], dict[str, paper.Printed]] = {}
    said = []
    for name in study.tables:
        if name not in record.tables:
            continue
        for one in paper.printed(model, name):
            rows.setdefault((name, one.row, one.column), {})[one.source] = one
        said += paper.claims(model, name)
    lines = []
    for (name, key, column), sources in sorted(rows.items(), key=lambda one: _by_delta(one[0][1])):
        row = _found_beside(record, name, dict(key))
        here = cell_text(Column("", (column,), False), row) if row else "–"
        cells = [here]
        if row and row.get(f"{column}_low") is not None:
            cells[0] += f" ({fixed(number(row, f'{column}_low') or 0.0, 3)} to "
            cells[0] += f"{fixed(number(row, f'{column}_high') or 0.0, 3)})"
        cells += [
            fixed(sources[source].value, 3) if source in sources else "–"
            for source in (paper.PAPER, paper.NOTEBOOKS)
        ]
        where = "; ".join(one.place for one in sources.values())
        tds = "".join(f"<td{_NUMERIC}>{_text(cell)}</td>" for cell in cells)
        lines.append(
            f'<tr><th scope="row">{_text(_quantity(dict(key), column))}</th>{tds}'
            f"<td>{_text(where)}</td></tr>"
        )
    claims = "".join(
        f"<li>The paper: {_sentence(claim.text)} <small>({_text(claim.place)})</small></li>"
        for claim in said
    )
    listed = f'<ul class="claims">{claims}</ul>' if claims else ""
    if not lines:
        return listed
    place = f"paper-{study.name}"
    heads = "".join(
        f'<th scope="col"{_NUMERIC}>{head}</th>' for head in ("here", "paper", "notebooks")
    )
    return listed + scrolling(
        f'<table><caption id="{place}">Beside the paper</caption><thead><tr>'
        f'<th scope="col">quantity</th>{heads}<th scope="col">printed in</th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>",
        place,
    )


def sample_block(sample: Sample) -> str:
    """Show one answer; nothing that a model wrote is read as markup."""
    strength = "" if sample.delta is None else f"Δ = {short(sample.delta)}"
    shown = 'class="text" lang="" dir="auto" translate="no"'
    return f"""<div class="sample"><h3>{_text(strength)}</h3>
<p {shown}>{_lines(sample.answer)}</p>
<details><summary>Its prompt</summary><p {shown}>{_lines(sample.prompt)}</p></details></div>"""


def other_samples(record: StudyRecord) -> str:
    """Show answers of studies that have no section."""
    names = {study.name for study in shown_studies(record)}
    rest = "".join(sample_block(one) for one in record.samples if one.study not in names)
    return (
        f'<section aria-labelledby="answers"><h2 id="answers">More answers</h2>{rest}</section>'
        * bool(rest)
    )


def failures(record: StudyRecord) -> str:
    """List what could not be measured."""
    if not record.failures:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{_text(one.study)}</th><td>{_text(one.row)}</td>'
        f"<td>{_text(one.condition)}</td><td>{_text(one.error)}</td></tr>"
        for one in record.failures
    )
    heads = "".join(
        f'<th scope="col">{head}</th>' for head in ("study", "row", "condition", "error")
    )
    block = scrolling(
        '<table><caption id="failed">Cases without an answer</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>",
        "failed",
    )
    return f'<section aria-labelledby="failures"><h2 id="failures">Failures</h2>{block}</section>'


def settings(record: StudyRecord) -> str:
    """Show what the run was told."""
    if not record.settings:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{_text(str(name))}</th><td>{_text(_json(value))}</td></tr>'
        for name, value in record.settings.items()
    )
    block = scrolling(
        '<table><caption id="told">What the run was told</caption><thead><tr>'
        '<th scope="col">setting</th><th scope="col">value</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>",
        "told",
    )
    return f"<section><details><summary>Settings</summary>{block}</details></section>"


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
