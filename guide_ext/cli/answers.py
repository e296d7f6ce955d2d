# SPDX-License-Identifier: MIT
"""``guide-ext study answers``: read plain and guided answers of a run side by side."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from guide_ext.cli.options import JsonOption
from guide_ext.report.console import console, say

_LONGEST = 160  # characters of what was marked


def answers(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    studies: Annotated[
        list[str] | None, typer.Argument(metavar="STUDY", help="Names. Default: all of the run.")
    ] = None,
    delta: Annotated[float, typer.Option("--delta", "-d", help="Δ of the guided answers.")] = 2.0,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of each study.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Show answers at Δ = 0 beside guided ones, at equal distances among all rows: not picked."""
    from guide_ext.cli.terminal import side_by_side
    from guide_ext.studies.run.pairs import answer_pairs

    found = answer_pairs(run, delta=delta, count=pairs, studies=tuple(studies or ()))
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(pair) for pair in found]))
        return
    for pair in found:
        marked = pair.row.marked
        shown = marked if len(marked) <= _LONGEST else f"{marked[: _LONGEST - 1]}…"
        say(f"\n{pair.study}, {pair.row.tokens} tokens of text, marked: {shown}")
        verdicts = (_verdict(pair.plain_succeeds), _verdict(pair.guided_succeeds))
        console().print(side_by_side(pair.plain, pair.guided, pair.delta, verdicts=verdicts))


def _verdict(succeeds: bool) -> str:
    return "success" if succeeds else "no success"
