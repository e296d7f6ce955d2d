# SPDX-License-Identifier: MIT
"""``guide-ext generate``: answer a prompt, steered."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from guide_ext.cli.options import (
    ChatOption,
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
    parse_heads,
    parse_layers,
    read_file,
    read_prompt,
)
from guide_ext.cli.progress import progress
from guide_ext.cli.streams import is_one_place
from guide_ext.embedded import EMBEDDED
from guide_ext.report.console import console, say

DeltaFromOption = Annotated[
    Path | None, typer.Option(help="Take --delta from what 'calibrate --out' saved.")
]
LayersOption = Annotated[
    str | None, typer.Option(help="Steer only these layers, e.g. 0-3,7. Default: all.")
]
HeadsOption = Annotated[
    Path | None,
    typer.Option(
        help="Steer only these heads: a JSON file of [layer, head] pairs; 'study heads' makes one."
    ),
]
LearnedOption = Annotated[
    Path | None,
    typer.Option(help="Steer by the Δ of each layer and head that 'guide-ext learn' saved."),
]
GenerateDeltaOption = Annotated[
    float | None,
    typer.Option(
        "--delta",
        "-d",
        help="Strength of level 2 (<!!->) in nats; try 1 to 3.  [default: 2]",
        show_default=False,
    ),
]
_DELTA = 2.0
CompareOption = Annotated[
    bool, typer.Option("--compare", help="Answer twice, plain and guided, side by side.")
]


def generate(
    prompt: PromptArgument = None,
    file: FileOption = None,
    model: ModelOption = EMBEDDED,
    delta: GenerateDeltaOption = None,
    delta_from: DeltaFromOption = None,
    layers: LayersOption = None,
    heads: HeadsOption = None,
    learned: LearnedOption = None,
    compare: CompareOption = False,
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

    The answer goes to standard output while it is written. A terminal shows its control characters
    as symbols; a file or a pipe gets it as the model wrote it. Everything else goes to standard
    error.
    """
    from guide_ext import integration
    from guide_ext.cli.terminal import side_by_side
    from guide_ext.integration.learned import LearnedDelta
    from guide_ext.steering.steering import Steering, grouped_by_layer

    places = {"--delta": delta, "--delta-from": delta_from, "--layers": layers, "--heads": heads}
    given = [name for name, value in places.items() if value is not None]
    if learned is not None and given:
        raise ValueError(
            f"{given[0]} must be left out with --learned, whose file says it; got both"
        )
    if delta is not None and delta_from is not None:
        raise ValueError("--delta must be left out with --delta-from, whose file says it; got both")
    if delta_from is not None:
        delta = _calibrated(delta_from, model)
    elif delta is None and learned is None:
        delta = _DELTA
    steered_layers = parse_layers(layers)
    pairs = None if heads is None else parse_heads(read_file(heads, "--heads"))
    if pairs is not None and layers is not None:
        raise ValueError("--layers must be left out with --heads, which name layers, too; got both")
    if learned is not None:
        steering = LearnedDelta.load(checked_input(learned, "--learned")).steering()
    else:
        assert delta is not None
        by_layer = None if pairs is None else grouped_by_layer(pairs)
        steering = Steering.guide(delta, layers=steered_layers, heads=by_layer)
    text = read_prompt(prompt, file)
    system = None if system is None else checked_text("--system", system)
    _hint_if_nothing_is_marked(system, text)
    language_model, tokenizer = load_model(model, dtype=dtype, device=device)
    wrapped = integration.as_prompt(tokenizer, text, system=system, chat=chat)
    stream = not compare and not as_json

    answer = partial(
        integration.complete,
        language_model,
        tokenizer,
        [wrapped],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        stream=stream,
    )
    plain = None
    if compare:
        plain = _counted(
            partial(answer, steering=Steering.guide(0.0)), "plain answer", max_new_tokens
        )
    # Progress would only disturb an answer that is read while it is written.
    is_seen = stream and (sys.stdout.isatty() or is_one_place(sys.stdout, sys.stderr))
    if is_seen:
        guided = answer(steering=steering)[0].strip()
    else:
        guided = _counted(partial(answer, steering=steering), "guided answer", max_new_tokens)
    if as_json:
        answers = {"guided": guided} | ({"plain": plain} if plain is not None else {})
        where: dict[str, object] = {"layers": steered_layers, "heads": pairs}
        if learned is not None:
            where["learned"] = str(learned)
        record = {"model": model, "delta": delta, **where, "prompt": text}
        typer.echo(json.dumps(record | answers))
    elif plain is not None:
        console().print(side_by_side(plain, guided, delta))


def _counted(answer: Callable[..., list[str]], name: str, most: int) -> str:
    """Return the answer to the one prompt, and show its number of tokens while it is written."""
    with progress() as shown:
        advance = shown.counted(f"{name}, tokens", at_most=True)
        return answer(on_token=lambda tokens: advance(tokens, most))[0].strip()


def _calibrated(file: Path, model: str) -> float:
    """Return the Δ of a saved calibration, and say so on standard error."""
    from guide_ext.calibration.calibration import Calibration

    calibration = Calibration.load(checked_input(file, "--delta-from"))
    say(f"note: Δ = {calibration.delta:g}, from {file}", err=True)
    if calibration.model != model:
        say(f"note: Δ was calibrated on {calibration.model!r}, not {model!r}", err=True)
    return calibration.delta


def _hint_if_nothing_is_marked(*texts: str | None) -> None:
    """Say so on standard error if no tag steers; raise TagError if one cannot be read."""
    from guide_ext.marking.spans import parse

    marked = [parse(text) for text in texts if text is not None]
    if all(span.group is not None for text in marked for span in text.spans):
        note = "note: nothing is marked, so nothing is steered; mark text with <!!-> … <-!!>"
        say(note, err=True)
