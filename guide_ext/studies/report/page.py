# SPDX-License-Identifier: MIT
"""One self-contained page about the paper's studies: findings, figures, tables, answers.

Nothing is loaded from anywhere, no script runs, and nothing that a model wrote is read as markup.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from guide_ext.report.document import asset, document, joined, markup, sha256_source
from guide_ext.studies.report import parts
from guide_ext.studies.report.figures import Drawing, drawings, picture
from guide_ext.studies.report.findings import STUDIES, shown_studies
from guide_ext.studies.report.panels import DARK
from guide_ext.studies.report.record import StudyRecord
from guide_ext.support.files import write_bytes

PAGE, FIGURES = "report.html", "figures"


def write_report(tables: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the report of a run: a page, and its figures as files too.

    Args:
        tables: What ``tables.json`` of the run holds.
        folder: Where to write ``report.html`` and ``figures/*.png``; made if there is none, and
            files of these names are replaced. No file is ever half written.

    Returns:
        The paths that were written, the page first.

    Raises:
        ValueError: If they are no such tables.
        OSError: If something cannot be written.

    Example:
        >>> import tempfile
        >>> columns = ["delta", "pairs", "win_rate", "win_rate_low", "win_rate_high"]
        >>> rows = [[0.5, 400, 0.505, 0.456, 0.554], [5.0, 400, 0.36, 0.315, 0.408]]
        >>> table = {"name": "french_quality", "title": "Win rate",
        ...          "columns": columns, "rows": rows}
        >>> tables = {"kind": "guide_ext study tables", "format": 1, "model": "embedded",
        ...           "world": "embedded", "tables": [table]}
        >>> folder = Path(tempfile.mkdtemp())
        >>> [path.relative_to(folder).as_posix() for path in write_report(tables, folder)]
        ['report.html', 'figures/french_quality.png']
        >>> "0.505" in (folder / "report.html").read_text(encoding="utf-8")
        True

    """
    record = StudyRecord.read(tables)
    drawn = _pictures(record)
    files = {folder / PAGE: _page(record, drawn).encode()}
    for drawing, light, _ in drawn:
        files[folder / FIGURES / f"{drawing.name}.png"] = light
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
    return list(files)


def study_html(tables: Mapping[str, Any]) -> str:
    """Make the page alone.

    Args:
        tables: What ``tables.json`` of the run holds.

    Returns:
        A whole HTML document.

    Raises:
        ValueError: If they are no such tables.

    """
    record = StudyRecord.read(tables)
    return str(_page(record, _pictures(record)))


def _pictures(record: StudyRecord) -> list[tuple[Drawing, bytes, bytes]]:
    """Draw every figure for light and dark."""
    return [
        (drawing, picture(record, drawing), picture(record, drawing, DARK))
        for drawing in drawings(record)
    ]


def _page(record: StudyRecord, pictures: list[tuple[Drawing, bytes, bytes]]) -> Markup:
    style = asset("guide_ext.report", "base.css") + asset(__package__, "study.css")
    # Should a text ever escape its quotes, the browser still runs, loads and styles nothing.
    policy = f"style-src {sha256_source(style)}; img-src data:; form-action 'none'; base-uri 'none'"
    body = markup(
        """{header}
<main>
{contents}
{studies}
{unknown}
{samples}
{failures}
{settings}
</main>""",
        header=parts.header(record),
        contents=parts.contents(record),
        studies=joined(
            parts.study_section(record, study, pictures) for study in shown_studies(record)
        ),
        unknown=_unknown(record),
        samples=parts.other_samples(record),
        failures=parts.failures(record),
        settings=parts.settings(record),
    )
    return document(f"Studies – {record.model}", policy, style, body)


def _unknown(record: StudyRecord) -> Markup:
    """Show tables of no study that is known, as they are."""
    known = {name for study in STUDIES for name in study.tables}
    rest = [table for name, table in record.tables.items() if name not in known]
    if not rest:
        return markup("")
    return markup(
        '<section aria-labelledby="more"><h2 id="more">More tables</h2>{}</section>',
        joined(parts.table_block(table, f"other-{at}") for at, table in enumerate(rest)),
    )
