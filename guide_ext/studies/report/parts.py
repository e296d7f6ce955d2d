# SPDX-License-Identifier: MIT
"""The parts of the page, as HTML."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from guide_ext.report.document import joined, markup
from guide_ext.studies.report import paper
from guide_ext.studies.report.cells import ShownColumn, columns_of, value_text
from guide_ext.studies.report.figures import described
from guide_ext.studies.report.findings import findings
from guide_ext.studies.report.record import ShownAnswer, ShownTable, StudyRecord
from guide_ext.studies.report.section import Drawing, Section
from guide_ext.studies.report.sentences import fixed, short
from guide_ext.studies.tables.reading import TableRow, Value, number, text

_MOST_OPEN = 14  # rows of a table that need no click to be seen
_NUMERIC = markup(' class="number"')
_PLAIN = markup("")


def _sentence(value: str) -> str:
    """Return a text whose “Δ = 2” and “95 %” are not broken at the end of a line."""
    held = value.replace("Δ = ", "Δ\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")
    return held.replace(" %", "\N{NO-BREAK SPACE}%")


def _lines(value: str) -> Markup:
    """Return a text with its line breaks; every other character is shown as it is."""
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


def table_block(table: ShownTable, place: str) -> Markup:
    """Show a table that scrolls by itself, also by keyboard; a long one is folded.

    Args:
        table: The table.
        place: An id that no other element of the page has.

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
                _cell(value_text(column, row), is_number=not column.is_text)
                if index
                else _first(value_text(column, row))
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
    """Show the model, how much failed, and what the numbers can be compared with."""
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
    """Link every section, with its first finding."""
    rows = []
    for section in record.shown_sections:
        found = findings(record, section)
        first = markup("<span>{}</span>", _sentence(found[0])) if found else _PLAIN
        rows.append(markup('<li><a href="#{}">{}</a>{}</li>', section.name, section.title, first))
    if not rows:
        return _PLAIN
    return markup('<nav aria-label="Studies"><ol>{}</ol></nav>', joined(rows))


def study_section(
    record: StudyRecord, section: Section, pictures: Sequence[tuple[Drawing, bytes, bytes]]
) -> Markup:
    """Show a section: findings, figures, the paper's numbers, tables, answers.

    Args:
        record: The tables of a run.
        section: Which section.
        pictures: Its figures, each drawn for light and for dark pages.

    """
    found = " ".join(map(_sentence, findings(record, section)))
    answers = joined(answer_block(one) for one in record.answers if one.study == section.name)
    parts = [
        markup('<p class="finding">{}</p>', found) if found else _PLAIN,
        *(figure(record, section, *one) for one in pictures),
        beside_paper(record, section),
        *(
            table_block(record.tables[table.name], f"table-{table.name}")
            for table in section.tables
            if table.name in record.tables
        ),
        markup("<details><summary>Answers to be read</summary>{}</details>", answers)
        if answers
        else _PLAIN,
    ]
    return markup(
        """<section aria-labelledby="{name}">
<h2 id="{name}">{title} <small>{place}</small></h2>
{parts}</section>""",
        name=section.name,
        title=section.title,
        place=f"paper: {section.place}" if section.place else "not in the paper",
        parts=joined(parts),
    )


def figure(
    record: StudyRecord, section: Section, drawing: Drawing, light: bytes, dark: bytes
) -> Markup:
    """Show a figure in the colours of the reader's page, with words for readers who cannot see it.

    Args:
        record: The tables of a run.
        section: The section that shows it.
        drawing: The figure.
        light: Its picture for light pages, a PNG.
        dark: Its picture for dark pages, a PNG.

    """
    sources = ["data:image/png;base64," + base64.b64encode(one).decode() for one in (light, dark)]
    return markup(
        """<div class="figure" role="region" tabindex="0" aria-label="Figure: {}">
<picture><source media="(prefers-color-scheme: dark)" srcset="{}">
<img src="{}" alt="{}"></picture></div>""",
        drawing.name,
        sources[1],
        sources[0],
        described(record, section, drawing),
    )


def _found_beside(rows: Sequence[TableRow], key: Mapping[str, Value]) -> TableRow | None:
    return next(
        (
            row
            for row in rows
            if all(
                text(row, name) == value if isinstance(value, str) else number(row, name) == value
                for name, value in key.items()
            )
        ),
        None,
    )


def _by_delta(key: paper.Key) -> tuple[bool, float]:
    """Sort by Δ, then baselines; rows without Δ keep their order."""
    values = dict(key)
    return values.get("style", "plain") != "plain", float(values.get("delta", 0.0))


def _quantity(table: ShownTable, key: Mapping[str, Value], name: str) -> str:
    """Name what is compared: the head of its column, and what names its row."""
    parts = [table.column(name).title]
    parts += [
        table.column(column).word(str(value))
        for column, value in key.items()
        if column not in ("style", "delta")
    ]
    style = str(key.get("style", "plain"))
    if style != "plain":
        parts.append(table.column("style").word(style))
    elif "delta" in key:
        parts.append(f"Δ = {short(float(str(key['delta'])))}")
    return ", ".join(parts)


def beside_paper(record: StudyRecord, section: Section) -> Markup:
    """Show the paper's numbers for the same model beside those of this run, and its claims."""
    model = paper.model_of(record.model) if record.world == "documents" else None
    rows: dict[tuple[str, paper.Key, str], dict[str, paper.Printed]] = {}
    said = []
    for name in (table.name for table in section.tables if table.name in record.tables):
        for one in section.printed:
            if (one.model, one.table) == (model, name):
                rows.setdefault((name, one.row, one.column), {})[one.source] = one
        said += [claim for claim in section.claims if (claim.model, claim.table) == (model, name)]
    lines = [
        _compared(record.tables[name], key, column, sources)
        for (name, key, column), sources in sorted(
            rows.items(), key=lambda one: _by_delta(one[0][1])
        )
    ]
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
    return listed + _table(
        f"paper-{section.name}", "Beside the paper", joined(heads), joined(lines)
    )


def _compared(
    table: ShownTable, key: paper.Key, name: str, sources: Mapping[str, paper.Printed]
) -> Markup:
    """Show one number of this run beside those that are printed."""
    column = table.column(name)
    row = _found_beside(table.rows, dict(key))
    values = [value_text(ShownColumn("", (column,), is_text=False), row) if row else "–"]
    if row and row.get(f"{name}_low") is not None:
        values[0] += f" ({fixed(number(row, f'{name}_low') or 0.0, 3)} to "
        values[0] += f"{fixed(number(row, f'{name}_high') or 0.0, 3)})"
    values += [
        fixed(sources[source].value, 3) if source in sources else "–"
        for source in (paper.PAPER, paper.NOTEBOOKS)
    ]
    return markup(
        "<tr>{}{}{}</tr>",
        _first(_quantity(table, dict(key), name)),
        joined(_cell(value, is_number=True) for value in values),
        _cell("; ".join(one.place for one in sources.values())),
    )


def answer_block(shown: ShownAnswer) -> Markup:
    """Show an answer and its prompt; nothing that a model wrote is read as markup."""
    strength = "" if shown.delta is None else f"Δ = {short(shown.delta)}"
    return markup(
        """<div class="sample"><h3>{}</h3>
<p class="text" lang="" dir="auto" translate="no">{}</p>
<details><summary>Its prompt</summary><p class="text" lang="" dir="auto" translate="no">{}</p>
</details></div>""",
        strength,
        _lines(shown.answer),
        _lines(shown.prompt),
    )


def other_answers(record: StudyRecord) -> Markup:
    """Show the answers of studies that have no section of their name."""
    names = {section.name for section in record.shown_sections}
    rest = joined(answer_block(one) for one in record.answers if one.study not in names)
    if not rest:
        return _PLAIN
    return markup(
        '<section aria-labelledby="answers"><h2 id="answers">More answers</h2>{}</section>', rest
    )


def failures(record: StudyRecord) -> Markup:
    """List what failed."""
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
    """Show the settings of the run."""
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
