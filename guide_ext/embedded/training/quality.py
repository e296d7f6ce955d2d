# SPDX-License-Identifier: MIT
"""Measure trained seeds and choose the shipped one: ``python -m … .quality FOLDER … --out FILE``.

The rule, fixed before any seed was measured: the shipped seed is the one with the largest gain in
success, delta 2 minus delta 0, averaged over French and JSON, on *development* documents. All seeds
are then measured once on the final documents, and all are reported.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from guide_ext.embedded.evaluate import (
    DELTAS,
    DEVELOPMENT_SEED,
    FINAL_SEED,
    MAX_TOKENS,
    NUM_BUCKETS,
    Case,
    CaseKind,
    Outcome,
    Rate,
    make_cases,
    run_cases,
    summarize,
)
from guide_ext.embedded.training.lean_engine import LeanEngine
from guide_ext.embedded.world import Style
from guide_ext.support.files import write_text

SELECTION_RULE = (
    "largest gain in success, delta 2 minus delta 0, mean of French and JSON, development documents"
)
_SELECTION_DELTA = 2.0
_SELECTION_TASKS = (CaseKind.FRENCH, CaseKind.JSON)
_Setting = tuple[CaseKind, Style, float]


def selection_settings() -> list[_Setting]:
    """Return the settings that are measured on development documents."""
    deltas = (0.0, _SELECTION_DELTA)
    return [(task, Style.PLAIN, delta) for task in _SELECTION_TASKS for delta in deltas]


def final_settings() -> list[_Setting]:
    """Return the settings that are measured on the final documents."""
    settings: list[_Setting] = []
    for task in (CaseKind.FRENCH, CaseKind.JSON, CaseKind.NEEDLE):
        settings += [(task, Style.PLAIN, delta) for delta in DELTAS]
    for task in _SELECTION_TASKS:
        settings += [(task, style, 0.0) for style in (Style.UPPER, Style.IMPORTANT)]
    return [*settings, *((CaseKind.ENGLISH, Style.PLAIN, delta) for delta in (0.0, 1.0, 2.0, 3.0))]


def _rate(rate: Rate) -> dict[str, Any]:
    return {
        "value": round(rate.value, 4),
        "interval95": [round(end, 4) for end in rate.interval(0.95)],
        "successes": rate.successes,
        "trials": rate.trials,
    }


def _row(setting: _Setting, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    task, style, delta = setting
    summary = summarize(outcomes)
    buckets = [
        summarize(outcome for outcome in outcomes if outcome.case.bucket == bucket).success.value
        for bucket in range(NUM_BUCKETS)
    ]
    return {
        "task": task.value,
        "style": style.value,
        "delta": delta,
        "success": _rate(summary.success),
        "well_formed": _rate(summary.well_formed),
        "followed": _rate(summary.followed),
        "success_by_length": [round(value, 3) for value in buckets],
    }


def measure(
    engine: LeanEngine, settings: Sequence[_Setting], seed: int, count: int, progress: Progress
) -> list[dict[str, Any]]:
    """Measure one model.

    Args:
        engine: The model.
        settings: CaseKind, style and delta of each row.
        seed: Seed of the documents; all settings of a task share them.
        count: Documents per row.
        progress: Gets one bar.

    Returns:
        One row per setting.

    """
    cases: dict[CaseKind, list[Case]] = {}
    rows = []
    for setting in progress.track(settings, description=f"documents {seed}"):
        task, style, delta = setting
        if task not in cases:
            cases[task] = make_cases(task, count, seed, tokenizer=engine.tokenizer)
        rows.append(_row(setting, list(run_cases(cases[task], engine, delta=delta, style=style))))
    return rows


def development_gain(rows: Sequence[dict[str, Any]]) -> float:
    """Return the number that :data:`SELECTION_RULE` compares, from development rows."""
    by_setting: dict[tuple[str, float], float] = {
        (row["task"], row["delta"]): row["success"]["value"] for row in rows
    }
    gains = [
        by_setting[task.value, _SELECTION_DELTA] - by_setting[task.value, 0.0]
        for task in _SELECTION_TASKS
    ]
    return sum(gains) / len(gains)


def _cell(rate: dict[str, Any]) -> str:
    low, high = rate["interval95"]
    return f"{100 * rate['value']:.0f} ({100 * low:.0f}–{100 * high:.0f})"


def markdown_table(report: dict[str, Any], measure: str) -> str:
    """Return one measure of all seeds on the final documents as a Markdown table.

    Args:
        report: Contents of the file that this program writes.
        measure: ``success``, ``well_formed`` or ``followed``.

    Returns:
        One line per task and seed, in percent with 95 % intervals; the baselines come last. "–"
        stands for what was not measured.

    """
    columns = [(Style.PLAIN, delta) for delta in DELTAS]
    columns += [(style, 0.0) for style in (Style.UPPER, Style.IMPORTANT)]
    names = [f"Δ {delta:g}" for delta in DELTAS] + ["UPPER CASE", "“Important:”"]
    lines = ["| task | seed | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for task in CaseKind:
        for run in report["runs"]:
            cells = {
                (Style(row["style"]), row["delta"]): _cell(row[measure])
                for row in run["final"]
                if row["task"] == task.value
            }
            seed = f"**{run['seed']}**" if run["seed"] == report["shipped_seed"] else run["seed"]
            row = " | ".join(cells.get(column, "–") for column in columns)
            lines.append(f"| {task.value} | {seed} | {row} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, measure every folder, choose a seed and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m guide_ext.embedded.training.quality")
    parser.add_argument("folders", nargs="+", type=Path, help="model folders written by training")
    parser.add_argument("--out", type=Path, required=True, help="JSON file with all tables")
    parser.add_argument("--count", type=int, default=120, help="documents per row")
    parser.add_argument("--development-only", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    runs: list[dict[str, Any]] = []
    with Progress() as progress:
        for folder in options.folders:
            engine = LeanEngine.from_folder(folder)
            training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
            rows = measure(engine, selection_settings(), DEVELOPMENT_SEED, options.count, progress)
            run = {"seed": training["arguments"]["seed"], "tokens": training["tokens"]}
            run |= {"development_gain": round(development_gain(rows), 4), "development": rows}
            if not options.development_only:
                run["final"] = measure(
                    engine, final_settings(), FINAL_SEED, options.count, progress
                )
            runs.append(run)
    report = {
        "documents": {
            "development_seed": DEVELOPMENT_SEED,
            "final_seed": FINAL_SEED,
            "per_row": options.count,
            "max_tokens": MAX_TOKENS,
            "decoding": "greedy",
            "engine": "lean network, float32 arithmetic on the bf16 weights",
        },
        "selection_rule": SELECTION_RULE,
        "shipped_seed": max(runs, key=lambda run: run["development_gain"])["seed"],
        "torch": torch.__version__,
        "runs": runs,
    }
    write_text(options.out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
