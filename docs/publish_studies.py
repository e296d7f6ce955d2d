# SPDX-License-Identifier: MIT
"""Put the tables and figures of runs into the pages that show them.

    python docs/publish_studies.py study_results                         # docs/reproduction.md
    python docs/publish_studies.py smollm2_needle --real smollm2_needle  # docs/real_models.md

A page names tables between comments; what stands between them is written anew from the run.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
PAGE, FOLDER = DOCS / "reproduction.md", DOCS / "studies"
RESULT = FOLDER / "embedded.json"
REAL_PAGE = DOCS / "real_models.md"
REAL_RUNS = {  # and how the names of their figures begin
    "smollm2_needle": "smollm2_",
    "smollm2_needle_ways": "smollm2_ways_",
    "smollm2_instruction": "smollm2_",
    "smollm2_instruction_sampled": "smollm2_",
    "smollm2_instruction_ways": "smollm2_ways_",
    "smollm2_instruction_choices": "smollm2_choices_",
    "smollm2_conflict": "smollm2_",
    "smollm2_conflict_heads": "smollm2_heads_",
    "smollm2_delta_limit": "smollm2_",
    "smollm2_json": "smollm2_",
}
_BLOCK = re.compile(
    r"(<!-- table ([\w/]+): ([\w ,]+?)(?: where (\w+)=(\S+))? -->\n).*?(<!-- end -->)", re.S
)
_BESIDE = re.compile(r"(<!-- beside needle -->\n).*?(<!-- end -->)", re.S)
Tables = dict[str, list[dict[str, Any]]]
_TITLES = {
    "condition": "", "in_french": "in French", "well_formed": "well-formed", "delta": "Δ",
    "right": "right in every word", "auc": "AUC", "auc_within": "AUC within one length",
    "jaccard": "Jaccard", "authors": "authors' score", "new_tokens": "tokens",
    "tokens": "tokens trained on", "on_task": "does the task", "success": "both",
    "difference": "difference from Δ = 0", "p_corrected": "p, corrected",
    "won": "the marked one's answer", "lost": "the other answer",
    "marked_sentence": "marked sentence", "asked": "task", "rule": "Δ chosen by",
    "change": "change from the best", "nearest": "nearest that was tried",
}  # fmt: skip
_RULES = {
    "plain": "nobody", "best": "the best on the other half", "uppercase": "upper case",
    "1.5": "1.5 × Influence", "2.0": "2 × Influence", "3.0": "3 × Influence",
}  # fmt: skip
_PLAIN = {"delta", "tokens", "new_tokens", "layer", "answers", "auc", "auc_within", "correlation",
          "median", "p5", "p95", "p_corrected", "nearest"}  # fmt: skip


def tables_of(path: Path) -> Tables:
    """Return the rows of every table of a run."""
    result = json.loads(path.read_text(encoding="utf-8"))
    return {
        table["name"]: [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
        for table in result["tables"]
    }


def all_tables() -> Tables:
    """Return the tables of the embedded model, and of each run on a real model as RUN/NAME."""
    found = tables_of(RESULT)
    for run in REAL_RUNS:
        own = tables_of(FOLDER / f"{run}.json")
        found |= {f"{run}/{name}": rows for name, rows in own.items()}
    return found


def with_tables(text: str, tables: Tables) -> str:
    """Return the page with its tables written anew."""

    def block(match: re.Match[str]) -> str:
        begin, name, columns, column, value, end = match.groups()
        rows = [row for row in tables[name] if column is None or str(row[column]) == value]
        names = [part.strip() for part in columns.split(",")]
        titles = {**_TITLES, "success": "success"} if "rule" in names else _TITLES
        lines = _lines(
            [titles.get(n, n) for n in names], [[_cell(row, n) for n in names] for row in rows]
        )
        return f"{begin}\n{lines}\n\n{end}"

    text = _BLOCK.sub(block, text)
    return _BESIDE.sub(lambda match: f"{match[1]}\n{_needles(tables)}\n\n{match[2]}", text)


def _needles(tables: Tables) -> str:
    """Write what was found by the paper's model, the embedded and the real one, side by side."""
    from guide_ext.studies.data.facts import PAPERS_FACT
    from guide_ext.studies.needle import PAPERS_PROMPT, STUDY
    from guide_ext.studies.report.paper import PAPER

    printed = {
        dict(one.row)["delta"]: one.value
        for section in STUDY.sections
        for one in section.printed
        if one.source == PAPER
    }
    real = {row["condition"]: row for row in tables["smollm2_needle/needle"]}
    embedded = {row["condition"]: row for row in tables["needle"]}
    papers = {
        row["condition"]: row
        for row in tables["smollm2_needle/needle_by_fact"]
        if (row["fact"], row["prompt"]) == (PAPERS_FACT.name, PAPERS_PROMPT)
    }
    return _lines(
        ["", "paper, Mistral-7B", "embedded", "SmolLM2, all", "SmolLM2, the paper's sentence"],
        [
            [name, f"{100 * printed[row['delta']]:.1f}%" if row["delta"] in printed else "–",
             *(_cell(of[name], "found") if name in of else "–" for of in (embedded, real, papers))]
            for name, row in real.items()
        ],
    )  # fmt: skip


def _lines(titles: list[str], rows: list[list[str]]) -> str:
    """Write a table in Markdown."""
    lines = [f"| {' | '.join(titles)} |", "|---|" + "---:|" * (len(titles) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _cell(row: dict[str, Any], name: str) -> str:
    value = row[name]
    if value is None:
        return "–"
    if isinstance(value, str):
        return _RULES.get(value, value) if name == "rule" else value
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    if name in _PLAIN:
        digits = "g" if name in ("tokens", "layer", "answers", "nearest") else ".3g"
        digits = ".2f" if name in ("auc", "auc_within", "correlation") else digits
        shown = f"{value:,}" if name == "tokens" else f"{value:{digits}}"
        return shown if low is None else f"{shown} ({low:{digits}} – {high:{digits}})"
    shown = f"{100 * value:.1f}%"
    return shown if low is None else f"{shown} ({100 * low:.0f} – {100 * high:.0f})"


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a finished run with its report")
    parser.add_argument("--real", choices=REAL_RUNS, help="which run on a real model it is")
    arguments = parser.parse_args()
    run, real = arguments.run, arguments.real
    FOLDER.mkdir(exist_ok=True)
    shutil.copy(run / "tables.json", FOLDER / f"{real}.json" if real else RESULT)
    shown = "".join(page.read_text("utf-8") for page in (PAGE, REAL_PAGE))
    for figure in (run / "figures").glob("*.png"):
        name = f"{REAL_RUNS[real] if real else ''}{figure.name}"
        if f"(studies/{name})" in shown:
            shutil.copy(figure, FOLDER / name)
    for page in (PAGE, REAL_PAGE):  # reproduction.md shows runs on the real model, too
        page.write_text(with_tables(page.read_text("utf-8"), all_tables()), encoding="utf-8")


if __name__ == "__main__":
    main()
