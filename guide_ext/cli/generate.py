# SPDX-License-Identifier: MIT
"""``guide-ext generate``: answer a prompt, steered."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
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
    checked_input,
    checked_text,
    load_model,
    parse_layers,
    read_prompt,
)
from guide_ext.cli.progress import progress
from guide_ext.cli.streams import is_one_place
from guide_ext.embedded import EMBEDDED
from guide_ext.report.console import console, say


def generate(
    prompt: PromptArgument = None,
    file: FileOption = None,
    model: ModelOption = EMBEDDED,
    delta: DeltaOption = 2.0,
    delta_from: Annotated[
        Path | None, typer.Option(help="Take --delta from what 'calibrate --out' saved.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Steer only these layers, e.g. 0-3,7. Default: all.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Answer twice, plain and guided, side by side.")
    ] = False,
    max_new_tokens: NewTokensOption = 200,
    temperature: TemperatureOption = 0.0,
    seed: SeedOption = 0,
    system: SystemOption = None,
    chat: ChatOption = True,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer a prompt; text inside <!!-> … <-!!> gets more attention.

    The answer goes to standard output while it is written. On a terminal its control characters are
    shown as symbols; a file or a pipe gets it as the model wrote it. Everything else goes to
    standard error.
    """
    from guide_ext import integration
    from guide_ext.calibration.calibration import Calibration
    from guide_ext.cli.terminal import side_by_side
    from guide_ext.steering.steering import Steering

    if delta_from is not None:
        calibration = Calibration.load(checked_input(delta_from, "--delta-from"))
        delta = calibration.delta
        say(f"note: Δ = {delta:g}, from {delta_from}", err=True)
        if calibration.model != model:
            say(f"note: Δ was calibrated on {calibration.model!r}, not {model!r}", err=True)
    steered_layers = parse_layers(layers)
    steering = Steering.guide(delta, layers=steered_layers)
    text = read_prompt(prompt, file)
    system = None if system is None else checked_text("--system", system)
    _hint_if_nothing_is_marked(system, text)
    language_model, tokenizer = load_model(model, dtype=dtype, device=device)
    wrapped = integration.as_prompt(tokenizer, text, system=system, chat=chat)
    stream = not compare and not as_json

    def answer(how: Steering, on_token: Callable[[int], None] | None) -> str:
        found = integration.complete(
            language_model,
            tokenizer,
            [wrapped],
            steering=how,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            stream=stream,
            on_token=on_token,
        )
        return found[0].strip()

    def counted_answer(how: Steering, name: str) -> str:
        with progress() as shown:
            advance = shown.counted(f"{name}, tokens", at_most=True)
            return answer(how, lambda tokens: advance(tokens, max_new_tokens))

    plain = counted_answer(Steering.guide(0.0), "plain answer") if compare else None
    # An answer that is read while it is written needs no progress beside it, nor lines within it.
    is_seen = stream and (sys.stdout.isatty() or is_one_place(sys.stdout, sys.stderr))
    guided = answer(steering, None) if is_seen else counted_answer(steering, "guided answer")
    if as_json:
        answers = {"guided": guided} | ({"plain": plain} if plain is not None else {})
        record = {"model": model, "delta": delta, "layers": steered_layers, "prompt": text}
        typer.echo(json.dumps(record | answers))
    elif plain is not None:
        console().print(side_by_side(plain, guided, delta))


def _hint_if_nothing_is_marked(*texts: str | None) -> None:
    """Say so on standard error where no tag steers; raise TagError where one cannot be read."""
    from guide_ext.marking.spans import parse

    marked = [parse(text) for text in texts if text is not None]
    if all(span.group is not None for text in marked for span in text.spans):
        note = "note: nothing is marked, so nothing is steered; mark text with <!!-> … <-!!>"
        say(note, err=True)
