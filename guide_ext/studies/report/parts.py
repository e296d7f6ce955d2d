# SPDX-License-Identifier: MIT
"""The parts of the page about the studies, as HTML."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from guide_ext.report.document import joined, markup
from guide_ext.studies.report import paper
from guide_ext.studies.report.cells import Column, cell_text, columns_of, head_of
from guide_ext.studies.report.figures import Drawing, described
from guide_ext.studies.report.findings import (
    Study,
    findings,
    fixed,
    predictor_name,
    short,
    shown_studies,
    task_name,
)
from guide_ext.studies.report.record import Cell, Row, Sample, StudyRecord, Table, number, text

_MOST_OPEN = 14  # rows of a table that need no click to be seen
_NUMERIC = markup(' class="number"')
_PLAIN = markup("")


def _sentence(value: str) -> str:
    """Return a text of which no “Δ = 2” and no “95 %” is torn apart at the end of a line."""
    held = value.replace("Δ = ", "Δ\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")
    return held.replace(" %", "\N{NO-BREAK SPACE}%")


def _lines(value: str) -> Markup:
    """Return a text with its line breaks alive and everything else visible."""
    return markup("\n").join(markup("{}", line) for line in value.split("\n"))


def _head(text: str, *, is_number: bool = False) -> Markup:
    return markup('<th scope="col"{}>{}</th>', _NUMERIC if is_number else _PLAIN, text)


def _cell(text: str, *, is_number: bool = False) -> Markup:
    return markup("<td{}>{}</td>", _NUMERIC if is_number else _PLAIN, text)


def _first(text: str) -> Markup:
    return markup('<th scope="row">{}</th>', text)


def _table(place: str, caption: str, heads: Markup, rows: Markup) -> Markup:
    table = markup(
        '<table><caption id="{}">{}</caption><thead><tr>{}</tr></thead><tbody>{}</tbody></table>',
        place,
        caption,
        heads,
        rows,
    )
    return scrolling(table, place)


def table_block(table: Table, place: str) -> Markup:
    """Return a table that scrolls by itself and can be reached by keyboard; long ones are folded.

    Args:
        table: What to show.
        place: A name that no other element of the page has.

    """
    columns = columns_of(table)
    heads = joined(
        _head(column.head, is_number=bool(index) and not column.is_text)
        for index, column in enumerate(columns)
    )
    rows = joined(
        markup(
            "<tr>{}</tr>",
            joined(
                _cell(cell_text(column, row), is_number=not column.is_text)
                if index
                else _first(cell_text(column, row))
                for index, column in enumerate(columns)
            ),
        )
        for row in table.rows
    )
    note = markup('<p class="hint">{}</p>', table.note) if table.note else _PLAIN
    block = _table(place, table.title, heads, rows)
    if len(table.rows) <= _MOST_OPEN:
        return block + note
    return markup(
        "<details><summary>{}: {} rows</summary>{}{}</details>",
        table.title,
        len(table.rows),
        block,
        note,
    )


def scrolling(content: Markup, label: str) -> Markup:
    """Return a box that scrolls sideways, also by keyboard."""
    return markup(
        '<div class="wide" role="region" tabindex="0" aria-labelledby="{}">{}</div>', label, content
    )


def header(record: StudyRecord) -> Markup:
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
    state = markup('<a href="#failures">{} failed</a>', cases) if failed else "no case failed"
    return markup(
        """<header>
<h1>The studies of “Pay Attention to What Matters”</h1>
<p>Model <b>{}</b>; {}. Shares are from 0 to 1, intervals 95 %, and Δ is the
bias of the marked text in nats.</p>
<p>{}</p>
</header>""",
        record.model,
        state,
        world,
    )


def contents(record: StudyRecord) -> Markup:
    """Link every study, with the first thing that was found."""
    rows = []
    for study in shown_studies(record):
        found = findings(record, study)
        first = markup("<span>{}</span>", _sentence(found[0])) if found else _PLAIN
        rows.append(markup('<li><a href="#{}">{}</a>{}</li>', study.name, study.title, first))
    if not rows:
        return _PLAIN
    return markup('<nav aria-label="Studies"><ol>{}</ol></nav>', joined(rows))


def study_section(
    record: StudyRecord, study: Study, pictures: Sequence[tuple[Drawing, bytes, bytes]]
) -> Markup:
    """Show a study: what was found, figures, the paper's numbers, tables, answers."""
    found = " ".join(map(_sentence, findings(record, study)))
    samples = joined(sample_block(one) for one in record.samples if one.study == study.name)
    parts = [
        markup('<p class="finding">{}</p>', found) if found else _PLAIN,
        *(figure(record, *one) for one in pictures if one[0].study == study.name),
        beside_paper(record, study),
        *(
            table_block(record.tables[name], f"table-{name}")
            for name in study.tables
            if name in record.tables
        ),
        markup("<details><summary>Answers to be read</summary>{}</details>", samples)
        if samples
        else _PLAIN,
    ]
    return markup(
        """<section aria-labelledby="{name}">
<h2 id="{name}">{title} <small>paper: {place}</small></h2>
{parts}</section>""",
        name=study.name,
        title=study.title,
        place=study.place,
        parts=joined(parts),
    )


def figure(record: StudyRecord, drawing: Drawing, light: bytes, dark: bytes) -> Markup:
    """Show a figure in the reader's colours, with words for who does not see it."""
    sources = ["data:image/png;base64," + base64.b64encode(one).decode() for one in (light, dark)]
    return markup(
        """<div class="figure" role="region" tabindex="0" aria-label="Figure: {}">
<picture><source media="(prefers-color-scheme: dark)" srcset="{}">
<img src="{}" alt="{}"></picture></div>""",
        drawing.name,
        sources[1],
        sources[0],
        described(record, drawing),
    )


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


def beside_paper(record: StudyRecord, study: Study) -> Markup:
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
        lines.append(
            markup(
                "<tr>{}{}{}</tr>",
                _first(_quantity(dict(key), column)),
                joined(_cell(cell, is_number=True) for cell in cells),
                _cell(where),
            )
        )
    claims = joined(
        markup("<li>The paper: {} <small>({})</small></li>", _sentence(claim.text), claim.place)
        for claim in said
    )
    listed = markup('<ul class="claims">{}</ul>', claims) if claims else _PLAIN
    if not lines:
        return listed
    heads = [_head("quantity")]
    heads += [_head(head, is_number=True) for head in ("here", "paper", "notebooks")]
    heads.append(_head("printed in"))
    return listed + _table(f"paper-{study.name}", "Beside the paper", joined(heads), joined(lines))


def sample_block(sample: Sample) -> Markup:
    """Show one answer; nothing that a model wrote is read as markup."""
    strength = "" if sample.delta is None else f"Δ = {short(sample.delta)}"
    return markup(
        """<div class="sample"><h3>{}</h3>
<p class="text" lang="" dir="auto" translate="no">{}</p>
<details><summary>Its prompt</summary><p class="text" lang="" dir="auto" translate="no">{}</p>
</details></div>""",
        strength,
        _lines(sample.answer),
        _lines(sample.prompt),
    )


def other_samples(record: StudyRecord) -> Markup:
    """Show answers of studies that have no section."""
    names = {study.name for study in shown_studies(record)}
    rest = joined(sample_block(one) for one in record.samples if one.study not in names)
    if not rest:
        return _PLAIN
    return markup(
        '<section aria-labelledby="answers"><h2 id="answers">More answers</h2>{}</section>', rest
    )


def failures(record: StudyRecord) -> Markup:
    """List what could not be measured."""
    if not record.failures:
        return _PLAIN
    rows = joined(
        markup(
            "<tr>{}{}{}{}</tr>",
            _first(one.study),
            _cell(one.row),
            _cell(one.condition),
            _cell(one.error),
        )
        for one in record.failures
    )
    heads = joined(map(_head, ("study", "row", "condition", "error")))
    return markup(
        '<section aria-labelledby="failures"><h2 id="failures">Failures</h2>{}</section>',
        _table("failed", "Cases without an answer", heads, rows),
    )


def settings(record: StudyRecord) -> Markup:
    """Show what the run was told."""
    if not record.settings:
        return _PLAIN
    rows = joined(
        markup("<tr>{}{}</tr>", _first(str(name)), _cell(_json(value)))
        for name, value in record.settings.items()
    )
    heads = joined(map(_head, ("setting", "value")))
    return markup(
        "<section><details><summary>Settings</summary>{}</details></section>",
        _table("told", "What the run was told", heads, rows),
    )


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
