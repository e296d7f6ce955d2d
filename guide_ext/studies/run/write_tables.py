# SPDX-License-Identifier: MIT
"""The tables of a run, finished or not, as data and as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guide_ext.studies.run.folder import DONE, FAILED
from guide_ext.studies.run.progress import Plan, read_plan
from guide_ext.studies.run.shards import write_text
from guide_ext.studies.study import studies_named
from guide_ext.studies.tables import measured, tables
from guide_ext.support.files import json_text

TABLES, TABLES_TEXT = "tables.json", "tables.md"


_TABLES_OF = {
    "french": (tables.french, measured.french_quality),
    "needle": (tables.needle,),
    "json": (tables.json_template,),
    "predictor": (measured.predictor,),
    "norms": (measured.norms,),
    "delta_limit": (tables.delta_limit,),
    "sft": (measured.sft,),
}


def write_tables(path: Path) -> dict[str, Any]:
    """Make the tables of a run from its shards, and save them beside.

    Args:
        path: Folder of the run, finished or not.

    Returns:
        What ``tables.json`` holds.

    Raises:
        ValueError: If the folder holds no run, or a shard is damaged.
        OSError: If the tables cannot be written.

    """
    plan = read_plan(path)
    settings = plan.settings
    done = {key: record for key, record in plan.records.items() if record["status"] == DONE}
    results = tables.Results(settings, plan.by_study, done)
    made = []
    for study in studies_named(settings.studies):
        if results.cells(study):
            for make in _TABLES_OF[study.name]:
                made += make(results)
    result = {
        "kind": "guide_ext study tables",
        "format": 1,
        "model": settings.model,
        "world": "embedded" if settings.is_embedded else "documents",
        "settings": settings.to_json(),
        "progress": {name: vars(plan.count(cells)) for name, cells in plan.by_study.items()},
        "failures": _failures(plan),
        "tables": made,
        "samples": tables.samples(results) if "delta_limit" in plan.by_study else [],
    }
    text = json_text(result, indent=1)
    write_text(path / TABLES, text + "\n")
    write_text(path / TABLES_TEXT, _markdown(made))
    return result


def _failures(plan: Plan) -> list[dict[str, str]]:
    """List what failed, in the order of the plan."""
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
