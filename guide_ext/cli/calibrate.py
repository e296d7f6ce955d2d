# SPDX-License-Identifier: MIT
"""``guide-ext calibrate``: find the Δ that equals an emphasis; `guide_ext.cli.app` registers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from guide_ext.cli.options import (
    ChatOption,
    DeviceOption,
    DtypeOption,
    FormOption,
    JsonOption,
    ModelOption,
    SystemOption,
    checked_file,
    checked_text,
    load_model,
    read_file,
)
from guide_ext.cli.progress import progress
from guide_ext.embedded import EMBEDDED
from guide_ext.report.console import console, say

PromptsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="PROMPT", help="Prompts with <!!-> … <-!!>; one Δ for them all."),
]
FilesOption = Annotated[
    list[Path] | None,
    typer.Option("--file", "-f", help="Read a prompt from this file; may be repeated."),
]
TargetOption = Annotated[
    str,
    typer.Option(
        "--target",
        "-t",
        help="'uppercase', or a factor such as 1.5: that many times the Influence at Δ = 0.",
    ),
]
LastTokensOption = Annotated[
    int, typer.Option(help="Average over so many tokens at the end of a prompt.", min=1)
]
MinDeltaOption = Annotated[
    float, typer.Option(help="Lowest Δ in nats; below 0 for emphasis that weakens.")
]
MaxDeltaOption = Annotated[float, typer.Option(help="Highest Δ in nats.")]
ToleranceOption = Annotated[float, typer.Option(help="How closely to look for Δ, in nats.")]
CalibrationOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="Save it here, for generate --delta-from.")
]


def parse_target(text: str) -> str | float:
    """Read the value of ``--target``: ``uppercase`` or a factor.

    Raises:
        ValueError: If the text is neither.

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
    prompts: PromptsArgument = None,
    files: FilesOption = None,
    model: ModelOption = EMBEDDED,
    target: TargetOption = "uppercase",
    form: FormOption = "paper",
    last_tokens: LastTokensOption = 10,
    min_delta: MinDeltaOption = 0.0,
    max_delta: MaxDeltaOption = 8.0,
    tolerance: ToleranceOption = 0.01,
    system: SystemOption = None,
    chat: ChatOption = True,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    out: CalibrationOption = None,
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
    texts = _checked_texts(prompts or [], files or [])
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


def _checked_texts(prompts: Sequence[str], files: Sequence[Path]) -> list[str]:
    """Return the prompts that were given as arguments, then those of files.

    Raises:
        ValueError: If there is no prompt, or one is empty or not UTF-8.

    """
    texts = [*prompts, *map(read_file, files)]
    if not texts or not all(text.strip() for text in texts):
        raise ValueError("no prompt, or an empty one: give some as arguments or with --file")
    return [checked_text("prompts", text) for text in texts]
