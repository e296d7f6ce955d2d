# SPDX-License-Identifier: MIT
"""Make the tables of a run, finished or not, and save them as data and as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from guide_ext.studies.plan import RunSettings
from guide_ext.studies.registry import studies_named
from guide_ext.studies.run.folder import DONE, FAILED
from guide_ext.studies.run.progress import Plan, read_plan
from guide_ext.studies.run.shards import save_text
from guide_ext.studies.study import Study
from guide_ext.studies.tables.metrics import Encoder
from guide_ext.studies.tables.results import Results, Scores, answers_to_read
from guide_ext.support.files import json_text

TABLES, TABLES_TEXT = "tables.json", "tables.md"


def write_tables(path: Path) -> dict[str, Any]:
    """Make the tables of a run from its shards, and save them in its folder.

    Args:
        path: Folder of the run, finished or not.

    Returns:
        The content of ``tables.json``.

    Raises:
        ValueError: If the folder holds no run, or a shard is damaged.
        OSError: If the tables cannot be written.

    """
    plan = read_plan(path)
    settings = plan.settings
    made, answers = [], []
    for study, results in results_of(plan):
        if results.cells:
            found = [table.made(results) for table in study.tables]
            made += [table for table in found if table is not None]
        answers += answers_to_read(results, study.name, study.answers_to_read)
    result = {
        "kind": "guide_ext study tables",
        "format": 1,
        "model": settings.model,
        "world": "embedded" if settings.is_embedded else "documents",
        "settings": settings.to_json(),
        "progress": {name: vars(plan.count(cells)) for name, cells in plan.by_study.items()},
        "failures": _failures(plan),
        "tables": made,
        "samples": answers,
    }
    text = json_text(result, indent=1)
    save_text(path / TABLES, text + "\n")
    save_text(path / TABLES_TEXT, _markdown(made))
    return result


def results_of(plan: Plan) -> Iterator[tuple[Study, Results]]:
    """Yield every study of a run with its results."""
    settings = plan.settings
    done = {key: record for key, record in plan.records.items() if record["status"] == DONE}
    encoder = _encoder(settings)
    scores: Scores = {}  # studies that share cells share judgements
    for study in studies_named(settings.studies):
        yield (
            study,
            Results(
                plan.by_study[study.name],
                done,
                study.tasks,
                is_embedded=settings.is_embedded,
                encoder=encoder,
                scores=scores,
            ),
        )


def _encoder(settings: RunSettings) -> Encoder | None:
    if settings.bertscore is None:
        return None
    return Encoder(settings.bertscore, settings.bertscore_layer)


def _failures(plan: Plan) -> list[dict[str, str]]:
    """List the failed cells in the order of the plan, then what was left out of the data."""
    found = []
    for study, cells in plan.by_study.items():
        for cell in cells:
            record = plan.records.get(cell.key)
            if record is not None and record["status"] == FAILED:
                found.append(
                    {
                        "study": study,
                        "row": cell.row.id,
                        "condition": cell.condition.name,
                        "error": record["error"],
                    }
                )
    found += [
        {"study": "", "row": document.id, "condition": "", "error": document.error}
        for document in plan.documents.bad
    ]
    return found


def _markdown(made: Sequence[dict[str, Any]]) -> str:
    lines: list[str] = []
    for table in made:
        lines += [f"## {table['title']}", ""]
        lines.append(f"| {' | '.join(table['columns'])} |")
        lines.append("|" + "---|" * len(table["columns"]))
        for row in table["rows"]:
            cells = ("–" if value is None else str(value) for value in row)
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", table["note"], ""] if table["note"] else [""]
    return "\n".join(lines)
