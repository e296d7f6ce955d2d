# SPDX-License-Identifier: MIT
"""The application: its commands, and how each of them reports errors."""

from __future__ import annotations

import functools
import inspect
import io
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer

from guide_ext.cli import study
from guide_ext.cli.answers import answers
from guide_ext.cli.calibrate import calibrate
from guide_ext.cli.demo import demo
from guide_ext.cli.doctor import doctor
from guide_ext.cli.generate import generate
from guide_ext.cli.harness import harness
from guide_ext.cli.heads import heads
from guide_ext.cli.influence import influence
from guide_ext.cli.learn import learn
from guide_ext.cli.profile import profile
from guide_ext.cli.serve import serve
from guide_ext.cli.spans import spans
from guide_ext.cli.streams import Commands, open_what_is_closed, tame_libraries, told
from guide_ext.report.console import print_error
from guide_ext.support.visible import for_terminal

BAD_INPUT = 2  # exit code, as for wrong options

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from guide_ext.support.version import VERSION

        typer.echo(VERSION)
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
    """Take the options before a command."""


def _command(
    function: Callable[..., None], *, on: typer.Typer = app, name: str | None = None, **how: Any
) -> Callable[..., None]:
    """Register a command; add ``--debug``, and report errors as a message without it."""

    @functools.wraps(function)
    def run(*args: Any, debug: bool = False, **options: Any) -> None:
        try:
            function(*args, **options)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise  # typer ends quietly if nobody reads the output any more
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
    on.command(name, **how)(run)
    return run


for _function in (demo, generate, serve, calibrate, profile, learn, influence, spans, doctor):
    _command(_function)

# What follows is the harness's own.
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
_command(harness, context_settings=_PASSED_ON)

study_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Run the paper's studies on any model: list, run, status, report, answers, heads.",
)
app.add_typer(study_app, name="study")
_command(study.list_studies, on=study_app, name="list")
_command(study.run, on=study_app)
_command(study.status, on=study_app)
_command(study.report, on=study_app)
_command(answers, on=study_app)
_command(heads, on=study_app)


def main() -> None:
    """Run the command line."""
    open_what_is_closed()
    tame_libraries()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without UTF-8 shows "?" for Δ
            stream.reconfigure(errors="replace")
    try:
        app()
    except Exception:  # with --debug; the traceback may quote any file name or text
        sys.stderr.write(for_terminal(traceback.format_exc()))
        sys.exit(1)
