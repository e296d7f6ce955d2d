# SPDX-License-Identifier: MIT
"""``guide-ext profile``: find the heads in which steering helps, by examples of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from guide_ext.cli.examples import ExamplesArgument, parse_examples
from guide_ext.cli.heads import HeadDeltaOption, HeadsTogetherOption, KeepOption, say_best
from guide_ext.cli.options import (
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


def profile(
    examples: ExamplesArgument,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Save the heads here, for 'generate --heads'.")
    ] = Path("heads.json"),
    model: ModelOption = EMBEDDED,
    by: Annotated[
        str,
        typer.Option(
            help="'gain': steer each head alone, and see how much likelier the answers become; "
            "'attention': what each head gives to marked text, in one pass an example."
        ),
    ] = "gain",
    keep: KeepOption = None,
    delta: HeadDeltaOption = 2.0,
    batch_size: HeadsTogetherOption = 32,
    chat: ChatOption = True,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the heads in which steering helps most, by questions whose right answers are known.

    A dozen questions of your own kind are a start. Mark in each prompt what answers it:

    [bold]guide-ext profile examples.jsonl -m MODEL -o heads.json[/bold]

    [bold]guide-ext generate -m MODEL --heads heads.json '… <!!-> … <-!!> …'[/bold]

    After an interruption, the same command goes on.
    """
    from guide_ext.integration import as_prompt, profile_heads, table_size
    from guide_ext.integration.examples import Example
    from guide_ext.integration.profile import heads_to_keep
    from guide_ext.machine.memory import keep_freed_memory
    from guide_ext.support.files import write_text

    checked_file(out)  # before the work
    read = parse_examples(read_file(examples, "EXAMPLES"))
    language_model, tokenizer = load_model(model, dtype=dtype, device=device)
    layers, heads = table_size(language_model)
    keep = heads_to_keep(keep, layers * heads)
    keep_freed_memory()
    begun = out.with_name(f"{out.name}.begun")
    with progress() as shown:
        found = profile_heads(
            language_model,
            tokenizer,
            [Example(as_prompt(tokenizer, prompt, chat=chat), answers) for prompt, answers in read],
            by=by,
            delta=delta,
            batch_size=batch_size,
            saved=begun,
            on_progress=shown.counted("heads"),
        )
    record: dict[str, Any] = {
        "heads": found.best(keep),
        "model": model,
        "by": by,
        "delta": delta,
        "examples": found.examples,
        "plain": found.plain,
        "gain_everywhere": found.gain_everywhere,
        "scores": found.scores,
    }
    text = json.dumps(record)
    write_text(out, text)
    begun.unlink(missing_ok=True)
    if as_json:
        typer.echo(text)
        return
    unit = "nats" if by == "gain" else "of its attention"
    say(f"{keep} of {layers * heads} heads, by {by}, of {found.examples} examples")
    if found.plain is not None:
        say(
            f"the right answer: {found.plain:.2f} nats plain, "
            f"{found.gain_everywhere:+.2f} with all heads"
        )
    say_best(found.best(keep), found.scores, unit)
    say(f"saved: {out}")
