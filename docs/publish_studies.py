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
REAL_PAGE, REAL_RUNS = DOCS / "real_models.md", ("smollm2_needle", "smollm2_instruction")
_BLOCK = re.compile(
    r"(<!-- table (\w+): ([\w ,]+?)(?: where (\w+)=(\S+))? -->\n).*?(<!-- end -->)", re.S
)
_TITLES = {
    "condition": "", "in_french": "in French", "well_formed": "well-formed", "delta": "Δ",
    "right": "right in every word", "auc": "AUC", "auc_within": "AUC within one length",
    "jaccard": "Jaccard", "authors": "authors' score", "new_tokens": "tokens",
    "tokens": "tokens trained on", "on_task": "does the task", "success": "both",
    "difference": "difference from Δ = 0", "p_corrected": "p, corrected",
}  # fmt: skip
_PLAIN = {"delta", "tokens", "new_tokens", "layer", "answers", "auc", "auc_within", "correlation",
          "median", "p5", "p95", "p_corrected"}  # fmt: skip


def real_result() -> dict[str, Any]:
    """Return the tables of all runs on real models as one result."""
    texts = [(FOLDER / f"{name}.json").read_text(encoding="utf-8") for name in REAL_RUNS]
    return {"tables": [table for text in texts for table in json.loads(text)["tables"]]}


def with_tables(text: str, result: dict[str, Any]) -> str:
    """Return the page with its tables written anew."""
    tables = {table["name"]: table for table in result["tables"]}

    def block(match: re.Match[str]) -> str:
        begin, name, columns, column, value, end = match.groups()
        rows = [
            dict(zip(tables[name]["columns"], row, strict=True)) for row in tables[name]["rows"]
        ]
        rows = [row for row in rows if column is None or str(row[column]) == value]
        names = [part.strip() for part in columns.split(",")]
        lines = [
            f"| {' | '.join(_TITLES.get(n, n) for n in names)} |",
            "|---|" + "---:|" * (len(names) - 1),
        ]
        lines += [f"| {' | '.join(_cell(row, n) for n in names)} |" for row in rows]
        return f"{begin}\n{chr(10).join(lines)}\n\n{end}"

    return _BLOCK.sub(block, text)


def _cell(row: dict[str, Any], name: str) -> str:
    value = row[name]
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    if name in _PLAIN:
        digits = "g" if name in ("delta", "tokens", "layer", "answers") else ".3g"
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
    for figure in (run / "figures").glob("*.png"):
        shutil.copy(figure, FOLDER / (f"smollm2_{figure.name}" if real else figure.name))
    if real:
        text = with_tables(REAL_PAGE.read_text(encoding="utf-8"), real_result())
        REAL_PAGE.write_text(text, encoding="utf-8")
        return
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), result), encoding="utf-8")


if __name__ == "__main__":
    main()
