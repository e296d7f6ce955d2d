# SPDX-License-Identifier: MIT
"""``guide-ext influence``: measure how far marked text reaches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guide_ext.cli.options import (
    ChatOption,
    DeltaOption,
    DeviceOption,
    DtypeOption,
    FileOption,
    FormOption,
    JsonOption,
    ModelOption,
    NewTokensOption,
    PromptArgument,
    SeedOption,
    SystemOption,
    TemperatureOption,
    checked_output,
    checked_text,
    load_model,
    read_prompt,
)
from guide_ext.cli.progress import Bars, Lines, progress
from guide_ext.embedded import EMBEDDED
from guide_ext.report.console import console, say

if TYPE_CHECKING:
    from guide_ext.report.influence.page import InfluenceReport

ReportOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--out",
        "-o",
        help="Save a page (.html), a picture (.png) or the numbers (.json); may be repeated.",
    ),
]


def influence(
    prompt: PromptArgument = None,
    file: FileOption = None,
    model: ModelOption = EMBEDDED,
    delta: DeltaOption = 2.0,
    form: FormOption = "paper",
    out: ReportOption = None,
    max_new_tokens: NewTokensOption = 60,
    temperature: TemperatureOption = 0.0,
    seed: SeedOption = 0,
    system: SystemOption = None,
    chat: ChatOption = True,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how far marked text reaches into every token, plain and guided.

    Mark what to measure with <?-> … <-?>, or with <?name-> … <-?name> for several groups. Without
    such marks, the text that <!!-> … <-!!> steers is measured.

    Try: [bold]guide-ext influence --file docs/example_prompt.txt --out report.html[/bold], or
    [bold]guide-ext influence '<?rule-><!!->Summarize in French<-!!><-?rule>: the cat sleeps.'
    [/bold]
    """
    paths = [checked_output(path) for path in out or []]  # before imports that take seconds
    from guide_ext import integration
    from guide_ext.cli.terminal import influence_table
    from guide_ext.influence.forms import form_named
    from guide_ext.integration.compare import check_marked, measure_prompt
    from guide_ext.report.influence.page import InfluenceReport
    from guide_ext.steering.steering import Steering

    # Errors in the arguments must show before a model is loaded.
    form_named(form)
    Steering.guide(delta)
    text = read_prompt(prompt, file)
    system = None if system is None else checked_text("--system", system)
    check_marked(system, text)
    language_model, tokenizer = load_model(model, dtype=dtype, device=device)
    with progress() as shown:
        record = measure_prompt(
            language_model,
            tokenizer,
            integration.as_prompt(tokenizer, text, system=system, chat=chat),
            delta=delta,
            form=form,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            model_name=model,
            on_token=_counted(shown, max_new_tokens),
        )
    _save(InfluenceReport(record), paths)
    if as_json:
        typer.echo(json.dumps(record))
        return
    console().print(influence_table(record))
    if paths:
        say(f"saved: {', '.join(map(str, paths))}")


def _counted(shown: Lines | Bars, most: int) -> Callable[[str, int], None]:
    """Return what shows the progress of each run, given its name and its tokens so far."""
    advance = {
        name: shown.counted(f"{name} answer, tokens", at_most=True) for name in ("plain", "guided")
    }
    return lambda name, tokens: advance[name](tokens, most)


def _save(report: InfluenceReport, paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            report.save(path)
        except OSError as error:
            raise ValueError(f"--out cannot be written, got {str(path)!r}: {error}") from None
