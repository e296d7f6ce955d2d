# SPDX-License-Identifier: MIT
"""``guide-ext study``: its commands and their options; `guide_ext.cli.app` registers them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
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
    parse_heads,
    read_file,
)
from guide_ext.cli.progress import progress
from guide_ext.cli.study_options import parse_deltas, parse_names
from guide_ext.embedded import EMBEDDED
from guide_ext.report.console import console, say

_FINISHED_PARTLY = 1  # exit code where cells failed

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]


def list_studies(as_json: JsonOption = False) -> None:
    """List the studies, and where the paper has them."""
    from guide_ext.studies.registry import STUDIES

    if as_json:
        rows = [{"name": s.name, "title": s.title, "paper": s.paper} for s in STUDIES.values()]
        typer.echo(json.dumps(rows))
        return
    for study in STUDIES.values():
        say(f"{study.name:12} {study.title}\n{'':12} {study.paper}")


def run(
    studies: Annotated[
        list[str] | None,
        typer.Argument(metavar="STUDY", help="Names, see 'study list'. Default: all."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the run; the same one goes on with it.")
    ] = Path("study_results"),
    model: ModelOption = EMBEDDED,
    data: Annotated[
        str | None,
        typer.Option(
            autocompletion=complete_data,
            help="Texts: a .jsonl or .parquet file, hub:NAME[:SPLIT], or python-docs, the prose "
            "of Python's documentation. Default: embedded world.",
        ),
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column of the texts.")] = "text",
    reference_column: Annotated[
        str | None,
        typer.Option(help="Column of French reference summaries, for BERTScore and sft."),
    ] = None,
    documents: Annotated[
        int | None,
        typer.Option(min=1, help="Of each range of lengths. Default: the paper's number."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Sampled answers per document and condition.")
    ] = None,
    deltas: Annotated[
        str | None, typer.Option(help="Strengths in nats, e.g. 0,1,2. Default: the paper's.")
    ] = None,
    windows: Annotated[
        int, typer.Option(min=1, help="Ranges of lengths that texts are taken from.")
    ] = 8,
    window_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens in each range, with --data.")
    ] = 500,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of documents and answers.")] = 42,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts that run together.")] = 32,
    bertscore: Annotated[
        str | None, typer.Option(help="Encoder for BERTScore, e.g. camembert-base or a folder.")
    ] = None,
    bertscore_layer: Annotated[
        int | None, typer.Option(min=1, help="Its layer, if bert-score does not know it.")
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest answer in tokens, if shorter than the task's."),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="Only these tasks, with commas between, where a study has several."),
    ] = None,
    kinds: Annotated[
        str | None,
        typer.Option(
            help="Only these kinds of questions, with commas between, where a study has several."
        ),
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option(
            help="Also other wordings, other marked parts and other methods, where a study has any."
        ),
    ] = True,
    heads: Annotated[
        Path | None,
        typer.Option(
            help="JSON file of [layer, head] pairs for methods that act in some heads; 'study "
            "heads' makes one."
        ),
    ] = None,
    ray: Annotated[
        int | None, typer.Option(min=1, help="Run on Ray with so many workers, one model each.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try cells again that failed before.")
    ] = False,
    chat: ChatOption = True,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the paper's studies. After an interruption, the same command continues.

    On the embedded model, in minutes:

    [bold]guide-ext study run french json -o my_run[/bold]

    On a checkpoint of your own, with your own texts:

    [bold]guide-ext study run french -m MODEL --data texts.jsonl -o my_run[/bold]

    With texts that every Python has:

    [bold]guide-ext study run needle -m MODEL --data python-docs -o my_run[/bold]
    """
    from guide_ext.integration.checkpoint import without_bars
    from guide_ext.machine.memory import keep_freed_memory
    from guide_ext.studies.plan import RunSettings
    from guide_ext.studies.registry import SECTIONS
    from guide_ext.studies.report.terminal import study_table
    from guide_ext.studies.run.heads import check_held_out
    from guide_ext.studies.run.runner import run_studies
    from guide_ext.studies.training.train import Step

    chosen = None if heads is None else read_file(heads, "--heads")
    settings = RunSettings(
        studies=tuple(studies or ()),
        model=model,
        data=data,
        text_column=text_column,
        reference_column=reference_column,
        documents=documents,
        samples=samples,
        deltas=parse_deltas(deltas),
        windows=windows,
        window=window_tokens,
        seed=seed,
        batch_size=batch_size,
        dtype=dtype,
        chat=chat,
        bertscore=bertscore,
        bertscore_layer=bertscore_layer,
        max_new_tokens=max_new_tokens,
        tasks=parse_names(tasks),
        kinds=parse_names(kinds),
        baselines=baselines,
        heads=() if chosen is None else parse_heads(chosen),
    )
    for remark in () if chosen is None else check_held_out(chosen, settings):
        say(f"note: {remark}", err=True)
    keep_freed_memory()
    with progress() as shown, without_bars(), _says_how_to_go_on():
        shown.begin("preparing the run")
        train = shown.counted("fine-tuning steps")

        def trained(step: Step) -> None:
            train(step.index, step.steps)

        tables = run_studies(
            settings,
            out,
            device=device,
            retry_failed=retry_failed,
            ray_workers=ray,
            on_progress=shown.counted("cells"),
            on_training=trained,
            on_note=lambda text: shown.note(f"note: {text}"),
        )
    if as_json:
        typer.echo(json.dumps(tables))
    else:
        console().print(study_table(tables, SECTIONS))
        say(f"saved: {out / 'tables.json'}; pictures: guide-ext study report {out}")
    failed = sum(study["failed"] for study in tables["progress"].values())
    if failed:
        say(f"note: {failed} cells failed; tables.json says why", err=True)
        raise typer.Exit(_FINISHED_PARTLY)


@contextmanager
def _says_how_to_go_on() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        say("stopped; what is done is saved, and the same command goes on", err=True)
        raise


def status(run: RunArgument, as_json: JsonOption = False) -> None:
    """Show the progress of a run."""
    from guide_ext.studies.run.progress import read_plan

    plan = read_plan(run)
    counts = {name: plan.count(cells) for name, cells in plan.by_study.items()}
    if as_json:
        typer.echo(json.dumps({name: vars(count) for name, count in counts.items()}))
        return
    for name, count in counts.items():
        failed = f", {count.failed} failed" if count.failed else ""
        say(f"{name:12} {count.done} of {count.total} cells done{failed}")


def report(
    run: RunArgument,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the report. Default: the run's.")
    ] = None,
) -> None:
    """Make the page and the figures of a run, finished or not."""
    from guide_ext.studies.registry import SECTIONS
    from guide_ext.studies.report.page import write_report
    from guide_ext.studies.run.write_tables import write_tables

    if out is not None and out.exists() and not out.is_dir():  # before the work
        raise ValueError(f"--out must be a folder, got the file {str(out)!r}")
    tables: dict[str, Any] = write_tables(run)
    saved = write_report(tables, out or run, SECTIONS)
    for path in saved:
        say(f"saved: {path}")
