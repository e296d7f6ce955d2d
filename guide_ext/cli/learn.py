# SPDX-License-Identifier: MIT
"""``guide-ext learn``: learn a Δ for each layer and head, from examples of one's own."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from guide_ext.cli.examples import ExamplesArgument, parse_examples
from guide_ext.cli.options import (
    MAX_SEED,
    ChatOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    checked_file,
    load_model,
    read_file,
)
from guide_ext.cli.progress import progress
from guide_ext.embedded import EMBEDDED
from guide_ext.report.console import say


def learn(
    examples: ExamplesArgument,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Save the table here, for 'generate --learned'.")
    ] = Path("learned.safetensors"),
    picture: Annotated[
        Path | None, typer.Option(help="Draw the table here, layers by heads, as a .png.")
    ] = None,
    model: ModelOption = EMBEDDED,
    by: Annotated[
        str, typer.Option(help="What gets a Δ of its own: 'head', 'layer', or 'one' for all.")
    ] = "head",
    start: Annotated[float, typer.Option(help="The Δ that all begin with, nats.")] = 1.0,
    rounds: Annotated[
        int, typer.Option(min=1, help="How often all examples are seen at most.")
    ] = 20,
    patience: Annotated[
        int, typer.Option(min=1, help="Stop after so many rounds that were no better.")
    ] = 3,
    held_out: Annotated[
        float, typer.Option(help="Share of the examples that choose when to stop.")
    ] = 0.3,
    learning_rate: Annotated[
        float, typer.Option(help="Nats that a number moves in a step, roughly.")
    ] = 0.1,
    penalty: Annotated[
        float, typer.Option(help="Nats of loss for a variance of 1: draws the table to one Δ.")
    ] = 0.1,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples of a step.")] = 8,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Of what is held out, and of the order.")
    ] = 0,
    chat: ChatOption = True,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Learn how many nats a mark is to mean in each layer and head, by gradient.

    The model itself is not changed. Some dozens of questions of your own kind, whose right answers
    you know, are a start. Mark in each prompt what answers it:

    [bold]guide-ext learn examples.jsonl -m MODEL -o learned.safetensors[/bold]

    [bold]guide-ext generate -m MODEL --learned learned.safetensors '… <!!-> … <-!!> …'[/bold]

    After an interruption, the same command goes on.
    """
    from guide_ext.integration import as_prompt, learn_delta
    from guide_ext.integration.examples import Example
    from guide_ext.machine.memory import keep_freed_memory

    checked_file(out)  # before the work
    if picture is not None:
        if picture.suffix != ".png":
            raise ValueError(f"--picture must be a .png file, got {str(picture)!r}")
        checked_file(picture)
        from guide_ext.report.strengths import draw_strengths
    read = parse_examples(read_file(examples, "EXAMPLES"))
    language_model, tokenizer = load_model(model, dtype=dtype, device=device)
    keep_freed_memory()
    begun = out.with_name(f"{out.name}.begun")
    with progress() as shown:
        advance = shown.counted("examples computed", at_most=True)
        found = learn_delta(
            language_model,
            tokenizer,
            [Example(as_prompt(tokenizer, prompt, chat=chat), answers) for prompt, answers in read],
            by=by,
            start=start,
            rounds=rounds,
            patience=patience,
            held_out=held_out,
            learning_rate=learning_rate,
            penalty=penalty,
            batch_size=batch_size,
            seed=seed,
            saved=begun,
            on_progress=advance,
        )
    found.save(out)
    if picture is not None:
        draw_strengths(found.nats, picture)
    begun.unlink(missing_ok=True)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    values = [value for row in found.nats for value in row]
    say(f"Δ by {by}: {min(values):.2f} to {max(values):.2f} nats, from {found.start:g} everywhere")
    say(
        f"the right answer, in {found.judged_by} examples that were held out: {found.plain:.3f} "
        f"nats plain, {found.at_start - found.plain:+.3f} at Δ = {found.start:g}, "
        f"{found.held_out - found.plain:+.3f} as learned"
    )
    if found.rounds == 0:
        say("nothing was better than the start; try more examples, or another --start", err=True)
    say(f"saved: {out}" + ("" if picture is None else f", {picture}"))
