# SPDX-License-Identifier: MIT
"""``guide-ext calibrate``: its options; `guide_ext.cli` registers it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from guide_ext.cli.options import (
    ChatOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    SystemOption,
    checked_file,
    checked_text,
    load_model,
    read_file,
)
from guide_ext.cli.progress import progress
from guide_ext.embedded import EMBEDDED
from guide_ext.report.console import console, say


def parse_target(text: str) -> str | float:
    """Read what to match: ``uppercase`` or a factor.

    Raises:
        ValueError: The text is neither.

    Example:
        >>> parse_target("uppercase"), parse_target("1.5")
        ('uppercase', 1.5)

    """
    if text == "uppercase":
        return text
    try:
        return float(text)
    except ValueError:
        msg = f"--target must be 'uppercase' or a factor such as 1.5, got {text!r}"
        raise ValueError(msg) from None


def calibrate(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT", help="Prompts with <!!-> … <-!!>; one Δ for them all."),
    ] = None,
    files: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", help="Read a prompt from this file; may be repeated."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="A checkpoint folder, a hub id, or 'embedded'.")
    ] = EMBEDDED,
    target: Annotated[
        str,
        typer.Option(
            "--target",
            "-t",
            help="'uppercase', or a factor: so many times the Influence at Δ = 0, e.g. 1.5.",
        ),
    ] = "uppercase",
    form: Annotated[
        str, typer.Option(help="Which Influence: paper, exact, authors, rollout or raw.")
    ] = "paper",
    last_tokens: Annotated[
        int, typer.Option(help="Read it at so many tokens at the end of a prompt.", min=1)
    ] = 10,
    min_delta: Annotated[
        float, typer.Option(help="Lowest Δ in nats; below 0 for emphasis that weakens.")
    ] = 0.0,
    max_delta: Annotated[float, typer.Option(help="Highest Δ in nats.")] = 8.0,
    tolerance: Annotated[float, typer.Option(help="How closely to look for Δ, in nats.")] = 0.01,
    system: SystemOption = None,
    chat: ChatOption = True,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Save it here, for generate --delta-from.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the Δ that equals UPPER CASE, or a factor of Influence, in a handful of forward passes.

    Write prompts as for generate, and mark what they emphasise:

    [bold]guide-ext calibrate '<!!->Answer in French<-!!>: who are you?' -o calibration.json[/bold]

    Then use what was found:

    [bold]guide-ext generate --delta-from calibration.json '<!!->Be brief<-!!>: …'[/bold]
    """
    from guide_ext import integration
    from guide_ext.cli.terminal import calibration_report

    goal = parse_target(target)
    texts = [*(prompts or []), *(read_file(file) for file in files or [])]
    if not texts or not all(text.strip() for text in texts):
        raise ValueError("no prompt, or an empty one: give some as arguments or with --file")
    for text in texts:
        checked_text("prompts", text)
    checked_text("--system", system or "")
    if out is not None:
        checked_file(out)  # before the work
    language_model, tokenizer = load_model(model, dtype=dtype, device=device)
    with progress() as shown:
        found = integration.calibrate(
            language_model,
            tokenizer,
            [integration.as_prompt(tokenizer, text, system=system, chat=chat) for text in texts],
            target=goal,
            form=form,
            last_tokens=last_tokens,
            min_delta=min_delta,
            max_delta=max_delta,
            tolerance=tolerance,
            on_pass=shown.counted("forward passes"),
        )
    found = replace(found, model=model)
    if out is not None:
        found.save(out)
    if as_json:
        typer.echo(found.to_json())
        return
    console().print(calibration_report(found))
    if out is not None:
        say(f"saved: {out}")
