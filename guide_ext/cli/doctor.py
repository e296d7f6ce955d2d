# SPDX-License-Identifier: MIT
"""``guide-ext doctor``: what is installed and compiled, and which kernel serves this machine."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from guide_ext.cli.options import JsonOption
from guide_ext.report.console import console


def doctor(as_json: JsonOption = False) -> None:
    """Show what is installed and compiled, which kernel serves this machine, and why."""
    from guide_ext.cli.terminal import diagnosis_report
    from guide_ext.machine.doctor import diagnose

    found = diagnose()
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        console().print(diagnosis_report(found))
