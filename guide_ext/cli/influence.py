# SPDX-License-Identifier: MIT
"""``guide-ext influence``: measure how far marked text reaches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from guide_ext.cli.options import (
    ChatOption,
    DeltaOption,
    DeviceOption,
    DtypeOption,
    FileOption,
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
from guide_ext.cli.progress import progress
from guide_ext.embedded import EMBEDDED
from guide_ext.report.console import console, say


def influence(
    prompt: PromptArgument = None,
    file: FileOption = None,
    model: ModelOption = EMBEDDED,
    delta: DeltaOption = 2.0,
    form: Annotated[
        str, typer.Option(help="Which recursion: paper, exact, authors, rollout or raw.")
    ] = "paper",
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "--out",
            "-o",
            help="Save a page (.html), a picture (.png) or the numbers (.json); may be repeated.",
        ),
    ] = None,
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

    Mark what to measure with <?-> … <-?>, or <?name-> … <-?name> for several groups; without such
    marks it is the text that is steered with <!!-> … <-!!>.

    Try: [bold]guide-ext influence --file docs/example_prompt.txt --out report.html[/bold], or
    [bold]guide-ext influence '<?rule-><!!->Summarize in French<-!!><-?rule>: the cat sleeps.'
    [/bold]
    """
    from guide_ext import integration
    from guide_ext.cli.terminal import influence_table
    from guide_ext.influence.forms import form_named
    from guide_ext.integration.compare import check_marked, measure_prompt
    from guide_ext.report.influence.page import InfluenceReport
    from guide_ext.steering.steering import Steering

    # What can be known to fail must fail before a model is loaded.
    paths = [checked_output(path) for path in out or []]
    form_named(form)
    Steering.guide(delta)
    text = read_prompt(prompt, file)
    system = None if system is None else checked_text("--system", system)
    check_marked(system, text)
    language_model, tokenizer = load_model(model, dtype=dtype, device=device)
    with progress() as shown:
        advance = {
            name: shown.counted(f"{name} answer, tokens", at_most=True)
            for name in ("plain", "guided")
        }
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
            on_token=lambda name, tokens: advance[name](tokens, max_new_tokens),
        )
    report = InfluenceReport(record)
    for path in paths:
        try:
            report.save(path)
        except OSError as error:
            raise ValueError(f"--out cannot be written, got {str(path)!r}: {error}") from None
    if as_json:
        typer.echo(json.dumps(record))
        return
    console().print(influence_table(record))
    if paths:
        say(f"saved: {', '.join(map(str, paths))}")
