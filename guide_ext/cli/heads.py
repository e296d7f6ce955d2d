# SPDX-License-Identifier: MIT
"""``guide-ext study heads``: choose heads by profiling; `guide_ext.cli.app` registers it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from guide_ext.cli.complete import complete_data
from guide_ext.cli.options import (
    MAX_SEED,
    ChatOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    checked_file,
)
from guide_ext.cli.progress import progress
from guide_ext.embedded import EMBEDDED
from guide_ext.report.console import say

KeepOption = Annotated[
    int | None, typer.Option(min=1, help="How many heads to keep. Default: 9 % of all.")
]
HeadDeltaOption = Annotated[float, typer.Option("--delta", help="Δ in the steered head, nats.")]
HeadsTogetherOption = Annotated[
    int, typer.Option("--batch-size", min=1, help="Heads that are measured together.")
]
_SHOWN = 5  # of the best heads, in the terminal


def heads(
    studies: Annotated[
        list[str],
        typer.Argument(
            metavar="STUDY...", help="Whose questions have one right answer: needle, conflict."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Save the heads here, for 'study run --heads'.")
    ] = Path("heads.json"),
    model: ModelOption = EMBEDDED,
    data: Annotated[
        str | None,
        typer.Option(
            autocompletion=complete_data,
            help="Texts, as for 'study run'. Default: embedded world.",
        ),
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column of the texts.")] = "text",
    documents: Annotated[
        int,
        typer.Option(min=1, help="For each task; the embedded world has as many of six lengths."),
    ] = 12,
    window_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest document in tokens, with --data.  [default: 200]"),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=MAX_SEED, help="Of the documents; must not be that of 'study run'."
        ),
    ] = 7,
    keep: KeepOption = None,
    delta: HeadDeltaOption = 2.0,
    batch_size: HeadsTogetherOption = 32,
    chat: ChatOption = True,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Choose the heads in which steering helps most, for methods that act in some heads.

    Each head is steered alone, on documents of another seed than those of the run, and ranked by
    how much the log-likelihood of the right answer rises:

    [bold]guide-ext study heads needle -m MODEL --data python-docs -o heads.json[/bold]

    [bold]guide-ext study run needle -m MODEL --data python-docs --heads heads.json[/bold]
    """
    from guide_ext.integration.checkpoint import without_bars
    from guide_ext.machine.memory import keep_freed_memory
    from guide_ext.studies.plan import RunSettings
    from guide_ext.studies.run.heads import profile_heads
    from guide_ext.support.files import write_text

    checked_file(out)  # before the work
    window: dict[str, Any] = (
        {} if window_tokens is None and data is None else {"window": window_tokens or 200}
    )
    settings = RunSettings(
        studies=tuple(studies),
        model=model,
        data=data,
        text_column=text_column,
        documents=documents,
        windows=1,
        seed=seed,
        batch_size=batch_size,
        dtype=dtype,
        chat=chat,
        **window,
    )
    keep_freed_memory()
    with progress() as shown, without_bars():
        shown.begin("loading the model")
        found = profile_heads(
            settings,
            keep=keep,
            delta=delta,
            device=device,
            on_progress=shown.counted("likelihoods of answers"),
            on_note=lambda text: shown.note(f"note: {text}"),
        )
    text = found.to_json()
    write_text(out, text)
    if as_json:
        typer.echo(text, nl=False)
        return
    count = sum(map(len, found.gains))
    say(
        f"{len(found.heads)} of {count} heads, Δ = {found.delta:g} in each alone; the right answer "
        f"in {found.documents} documents: {found.plain:.2f} nats plain, "
        f"{found.gain_everywhere:+.2f} with all heads"
    )
    say_best(found.heads, found.gains, "nats")
    say(f"saved: {out}")


def say_best(
    heads: Sequence[tuple[int, int]], scores: Sequence[Sequence[float]], unit: str
) -> None:
    """Print the first of the chosen heads, and the last, each with its score."""
    for layer, head in heads[:_SHOWN]:
        say(f"layer {layer:2} head {head:2}  {scores[layer][head]:+.3f} {unit}")
    if len(heads) > _SHOWN:
        layer, head = heads[-1]
        say(f"the last kept: layer {layer} head {head}  {scores[layer][head]:+.3f} {unit}")
