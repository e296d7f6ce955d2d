# SPDX-License-Identifier: MIT
"""One self-contained page about a run: findings, figures, tables, answers.

Nothing is loaded from anywhere, no script runs, and nothing that a model wrote is read as markup.
"""

from __future__ import annotations

# First: it says how to install what the rest imports.
from guide_ext.studies.report import packages as _packages  # noqa: F401

# isort: split
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from guide_ext.report.document import asset, document, joined, markup, sha256_source
from guide_ext.studies.report import parts
from guide_ext.studies.report.figures import drawings, picture
from guide_ext.studies.report.panels import DARK
from guide_ext.studies.report.record import StudyRecord
from guide_ext.studies.report.section import Drawing, Section
from guide_ext.support.files import write_bytes

PAGE, FIGURES = "report.html", "figures"
Pictures = dict[str, list[tuple[Drawing, bytes, bytes]]]
"""The figures of each section, each for light and for dark pages."""


def write_report(
    tables: Mapping[str, Any], folder: Path, sections: Sequence[Section]
) -> list[Path]:
    """Write the report of a run: a page, and its figures as files too.

    Args:
        tables: What ``tables.json`` of the run holds.
        folder: Where to write ``report.html`` and ``figures/*.png``. It is made if there is none;
            files of these names are replaced. No file is ever half written.
        sections: The sections of the report, in order. Tables that none of them knows are shown as
            they are.

    Returns:
        The paths that were written, the page first.

    Raises:
        ValueError: If the tables are not those of a run.
        OSError: If something cannot be written.

    Example:
        >>> import tempfile
        >>> from guide_ext.studies.registry import SECTIONS
        >>> columns = ["delta", "pairs", "win_rate", "win_rate_low", "win_rate_high"]
        >>> rows = [[0.5, 400, 0.505, 0.456, 0.554], [5.0, 400, 0.36, 0.315, 0.408]]
        >>> table = {"name": "french_quality", "title": "Win rate",
        ...          "columns": columns, "rows": rows}
        >>> tables = {"kind": "guide_ext study tables", "format": 1, "model": "embedded",
        ...           "world": "embedded", "tables": [table]}
        >>> folder = Path(tempfile.mkdtemp())
        >>> [path.relative_to(folder).as_posix() for path in write_report(tables, folder, SECTIONS)]
        ['report.html', 'figures/french_quality.png']
        >>> "0.505" in (folder / "report.html").read_text(encoding="utf-8")
        True

    """
    record = StudyRecord.read(tables, sections)
    drawn = _pictures(record)
    files = {folder / PAGE: _page(record, drawn).encode()}
    for drawing, light, _ in (one for found in drawn.values() for one in found):
        files[folder / FIGURES / f"{drawing.name}.png"] = light
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
    return list(files)


def study_html(tables: Mapping[str, Any], sections: Sequence[Section]) -> str:
    """Make the page alone.

    Args:
        tables: What ``tables.json`` of the run holds.
        sections: As for `write_report`.

    Returns:
        A whole HTML document.

    Raises:
        ValueError: If the tables are not those of a run.

    """
    record = StudyRecord.read(tables, sections)
    return str(_page(record, _pictures(record)))


def _pictures(record: StudyRecord) -> Pictures:
    """Draw every figure for light and for dark pages."""
    return {
        section.name: [
            (drawing, picture(record, drawing), picture(record, drawing, DARK))
            for drawing in drawings(record, section)
        ]
        for section in record.shown_sections
    }


def _page(record: StudyRecord, pictures: Pictures) -> Markup:
    style = asset("guide_ext.report", "base.css") + asset(__package__, "study.css")
    # Should a text ever escape its quotes, the browser still runs, loads and styles nothing.
    policy = f"style-src {sha256_source(style)}; img-src data:; form-action 'none'; base-uri 'none'"
    body = markup(
        """{header}
<main>
{contents}
{sections}
{unknown}
{answers}
{failures}
{settings}
</main>""",
        header=parts.header(record),
        contents=parts.contents(record),
        sections=joined(
            parts.study_section(record, section, pictures[section.name])
            for section in record.shown_sections
        ),
        unknown=_unknown(record),
        answers=parts.other_answers(record),
        failures=parts.failures(record),
        settings=parts.settings(record),
    )
    return document(f"Studies – {record.model}", policy, style, body)


def _unknown(record: StudyRecord) -> Markup:
    """Show the tables that no section knows, as they are."""
    rest = record.other_tables
    if not rest:
        return markup("")
    return markup(
        '<section aria-labelledby="more"><h2 id="more">More tables</h2>{}</section>',
        joined(parts.table_block(table, f"other-{at}") for at, table in enumerate(rest)),
    )
