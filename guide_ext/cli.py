# SPDX-License-Identifier: MIT
"""``guide-ext``: argument parsing only; the work is done by the layers below."""

from __future__ import annotations

import functools
import inspect
import io
import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from guide_ext import _cli_study
from guide_ext._cli_calibrate import calibrate
from guide_ext._cli_progress import progress
from guide_ext._cli_streams import Commands, is_one_place, open_what_is_closed, tame_libraries, told
from guide_ext._visible import for_terminal
from guide_ext.cli_options import (
    EMBEDDED,
    MAX_SEED,
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
    checked_output,
    checked_text,
    load_model,
    model_name,
    parse_layers,
    read_prompt,
)
from guide_ext.report.console import console, print_error, say

BAD_INPUT = 2  # exit code, as for wrong options

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from guide_ext import __version__

        typer.echo(__version__)
        raise typer.Exit


_HELP = (
    "Steer a language model by marking text in its prompt.\n\n"
    "Mark with [bold]<!!-> … <-!!>[/bold] (or ! weaker, !!! stronger, <!1.5-> … <-!> for an "
    "exact strength in nats); every attention head then gives the marked tokens more weight.\n\n"
    "Results go to standard output, progress, notes and errors to standard error. In both, control "
    "characters of texts and names are shown and not obeyed.\n\n"
    "Try: [bold]guide-ext demo[/bold], or "
    "[bold]guide-ext spans '<!!-> Summarize in French <-!!> …'[/bold]"
)


@app.callback(help=_HELP)
def top(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def _command(
    function: Callable[..., None], *, on: typer.Typer = app, name: str | None = None
) -> Callable[..., None]:
    """Register a command that reports bad input in one clean message, and knows ``--debug``."""

    @functools.wraps(function)
    def run(*args: Any, debug: bool = False, **options: Any) -> None:
        try:
            function(*args, **options)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise  # typer ends quietly where nobody reads the output any more
        except (ValueError, OSError, NotImplementedError) as error:
            if debug:
                raise
            print_error(told(error))
            raise typer.Exit(BAD_INPUT) from None
        except Exception as error:
            if debug:
                raise
            print_error(
                f"{type(error).__name__}: {error}\nRun again with --debug for the traceback."
            )
            raise typer.Exit(1) from None

    signature = inspect.signature(function, eval_str=True)
    flag = inspect.Parameter(
        "debug",
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")],
    )
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), flag]
    )
    run.__annotations__ = {p.name: p.annotation for p in [*signature.parameters.values(), flag]}
    on.command(name)(run)
    return run


def _hint_if_nothing_is_marked(*texts: str | None) -> None:
    """Say so on standard error where no tag steers; raise TagError where one cannot be read."""
    from guide_ext.spans import parse

    marked = [parse(text) for text in texts if text is not None]
    if all(span.group is not None for text in marked for span in text.spans):
        note = "note: nothing is marked, so nothing is steered; mark text with <!!-> … <-!!>"
        say(note, err=True)


@_command
def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for results.json and figure.png.")
    ] = Path("demo_results"),
    documents: Annotated[int, typer.Option(help="Documents per task.", min=2)] = 120,
    seed: Annotated[int, typer.Option(help="Seed of the documents.", min=0, max=MAX_SEED)] = 2026,
    as_json: JsonOption = False,
) -> None:
    """Steer the embedded model on unseen documents: plain against guided, counted and timed."""
    from guide_ext.experiments.demo import DemoSettings, run_demo, save_result
    from guide_ext.integration.checkpoint import without_bars
    from guide_ext.report.figures import draw_demo
    from guide_ext.report.terminal import demo_report

    try:
        out.mkdir(parents=True, exist_ok=True)  # before the work, in case it cannot be made
    except OSError as error:
        raise ValueError(f"--out must be a folder, got {str(out)!r}: {error.strerror}") from None
    with progress() as shown, without_bars():
        shown.begin("loading the embedded model")
        result = run_demo(
            DemoSettings(documents=documents, seed=seed),
            on_progress=shown.counted("guided answers"),
            on_timing=shown.counted("timed calls"),
        )
    table, picture = save_result(result, out), out / "figure.png"
    draw_demo(result, picture)
    if as_json:
        typer.echo(json.dumps(result))
        return
    console().print(demo_report(result))
    say(f"saved: {table}, {picture}")


@_command
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
    from guide_ext import Calibration, integration
    from guide_ext.report.terminal import side_by_side
    from guide_ext.steering import Steering

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


_command(calibrate)

study_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Run the paper's studies on any model: list, run, status, report.",
)
app.add_typer(study_app, name="study")
_command(_cli_study.list_studies, on=study_app, name="list")
_command(_cli_study.run, on=study_app)
_command(_cli_study.status, on=study_app)
_command(_cli_study.report, on=study_app)


@_command
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
    from guide_ext.experiments.influence_run import check_marked, measure_prompt
    from guide_ext.influence import form_named
    from guide_ext.report.influence_page import InfluenceReport
    from guide_ext.report.terminal import influence_table
    from guide_ext.steering import Steering

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


@_command
def spans(
    prompt: PromptArgument = None,
    file: FileOption = None,
    model: ModelOption = EMBEDDED,
    delta: DeltaOption = 2.0,
    system: SystemOption = None,
    chat: ChatOption = True,
    as_json: JsonOption = False,
) -> None:
    """Show what the tags of a prompt mark, token by token; loads only the tokenizer."""
    from guide_ext import integration
    from guide_ext.chat import encode_chat
    from guide_ext.report.terminal import marked_tokens
    from guide_ext.steering import Steering
    from guide_ext.tokens import encode

    text = read_prompt(prompt, file)
    system = None if system is None else checked_text("--system", system)
    tokenizer = integration.load_tokenizer(model_name(model))
    wrapped = integration.as_prompt(tokenizer, text, system=system, chat=chat)
    if isinstance(wrapped, str):
        encoding = encode(tokenizer, wrapped)
    else:
        encoding = encode_chat(tokenizer, wrapped)
    Steering.guide(delta).bias(encoding)  # refuses what generate would refuse
    pieces = tokenizer.convert_ids_to_tokens(encoding.input_ids)
    if as_json:
        record = {"text": encoding.text, "tokens": pieces, "input_ids": encoding.input_ids}
        typer.echo(json.dumps(record | {"nats": encoding.nats(delta), "groups": encoding.groups()}))
    else:
        console().print(marked_tokens(encoding, pieces, delta))


@_command
def doctor(as_json: JsonOption = False) -> None:
    """Tell what is installed and compiled, which kernel serves this machine, and why."""
    from guide_ext.report.doctor import diagnose
    from guide_ext.report.terminal import diagnosis_report

    found = diagnose()
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        console().print(diagnosis_report(found))


def main() -> None:
    """Run the command line."""
    open_what_is_closed()
    tame_libraries()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without UTF-8 shows "?" for Δ
            stream.reconfigure(errors="replace")
    try:
        app()
    except Exception:  # with --debug: of a file's name or a model's words it may hold anything
        sys.stderr.write(for_terminal(traceback.format_exc()))
        sys.exit(1)
