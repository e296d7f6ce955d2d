# SPDX-License-Identifier: MIT
"""``guide-ext demo``: compare plain and guided answers of the embedded model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from guide_ext.cli.options import MAX_SEED, JsonOption
from guide_ext.cli.progress import progress
from guide_ext.report.console import console, say


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for results.json and figure.png.")
    ] = Path("demo_results"),
    documents: Annotated[int, typer.Option(help="Documents per task.", min=2)] = 120,
    seed: Annotated[int, typer.Option(help="Seed of the documents.", min=0, max=MAX_SEED)] = 2026,
    as_json: JsonOption = False,
) -> None:
    """Steer the embedded model on unseen documents; count and time plain and guided answers."""
    from guide_ext.cli.terminal import demo_report
    from guide_ext.demo.demo import DemoSettings, run_demo, save_result
    from guide_ext.demo.figure import draw_demo
    from guide_ext.integration.checkpoint import without_bars

    try:
        out.mkdir(parents=True, exist_ok=True)  # before the work, in case it cannot be made
    except OSError as error:
        raise ValueError(f"--out must be a folder, got {str(out)!r}: {error.strerror}") from None
    with progress() as shown, without_bars():
        shown.begin("loading the embedded model")
        result = run_demo(
            DemoSettings(documents=documents, seed=seed),
            on_progress=shown.counted("guided answers"),
            on_timing=shown.counted("timed calls"),
        )
    table, picture = save_result(result, out), out / "figure.png"
    draw_demo(result, picture)
    if as_json:
        typer.echo(json.dumps(result))
        return
    console().print(demo_report(result))
    say(f"saved: {table}, {picture}")
