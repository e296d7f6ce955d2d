# SPDX-License-Identifier: MIT
"""Options that several commands of ``guide-ext`` share, and functions that read their values."""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from guide_ext.cli.complete import complete_model
from guide_ext.cli.progress import on_terminal, progress
from guide_ext.report.console import say

MAX_SEED = (1 << 63) - 1

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        autocompletion=complete_model,
        help="A checkpoint folder, a .gguf file, a hub id, 'embedded' (ships with this) or "
        "'smollm2' (SmolLM2-135M-Instruct, from a package).",
    ),
]
FileOption = Annotated[
    Path | None, typer.Option("--file", "-f", help="Read the prompt from this file.")
]
PromptArgument = Annotated[
    str | None,
    typer.Argument(help="The prompt, tags included; '-' or nothing reads standard input."),
]
DeltaOption = Annotated[
    float, typer.Option("--delta", "-d", help="Strength of level 2 (<!!->) in nats; try 1 to 3.")
]
SystemOption = Annotated[
    str | None, typer.Option("--system", help="System message (chat models); may carry tags too.")
]
ChatOption = Annotated[
    bool, typer.Option("--chat/--no-chat", help="Use the model's chat template where it has one.")
]
DtypeOption = Annotated[
    str,
    typer.Option(
        help="float32, bfloat16, float16, float64, or 'auto': as stored, but float32 on a CPU that "
        "has no instructions for products in the stored one (see doctor)."
    ),
]
DeviceOption = Annotated[
    str | None, typer.Option(help="e.g. cuda:0. Default: a GPU if there is one.")
]
FormOption = Annotated[
    str, typer.Option(help="Form of Influence: paper, exact, authors, rollout or raw.")
]
TemperatureOption = Annotated[
    float, typer.Option(help="0 for greedy decoding, else sample.", min=0.0)
]
NewTokensOption = Annotated[int, typer.Option(help="Longest answer, in tokens.", min=1)]
SeedOption = Annotated[int, typer.Option(help="Seed of the sampling.", min=0, max=MAX_SEED)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def read_prompt(prompt: str | None, file: Path | None) -> str:
    """Return the prompt from the argument, from a file, or from standard input.

    Raises:
        ValueError: If there is no prompt, or there are two, or it is empty, not UTF-8 or cannot be
            read.

    """
    if file is not None and prompt is not None:
        raise ValueError("give the prompt as an argument or with --file, not both")
    if file is not None:
        text = read_file(file)
    elif prompt is not None and prompt != "-":
        text = prompt
    else:
        text = _read_stdin(is_asked_for=prompt == "-")
    if not text.strip():
        raise ValueError("the prompt is empty: write one, or see --help")
    return checked_text("the prompt", text)


def read_file(path: Path, name: str = "--file") -> str:
    """Return the text of a file that an option names.

    Raises:
        ValueError: If there is no such file, it cannot be read, or it is not UTF-8.

    """
    try:
        return checked_input(path, name).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text: {error}; convert it first") from None
    except OSError as error:
        raise ValueError(
            f"{name} must be a file that can be read, got {str(path)!r}: {error.strerror}"
        ) from None


def checked_input(path: Path, name: str) -> Path:
    """Return the path that an option names, after a check that a file is there.

    Raises:
        ValueError: If nothing is there, or a folder.

    """
    if path.is_dir():
        raise ValueError(f"{name} must be a file, got the folder {str(path)!r}")
    if not path.exists():
        raise ValueError(f"{name} must be a file that exists, got {str(path)!r}")
    return path


def _read_stdin(*, is_asked_for: bool) -> str:
    elsewhere = "give the prompt as an argument or with --file"
    if sys.stdin is None:
        raise ValueError(
            f"standard input must be open to read the prompt from, got none; {elsewhere}"
        )
    if sys.stdin.isatty() and not is_asked_for:
        raise ValueError("no prompt: give it as an argument, with --file, or on standard input")
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"standard input must be UTF-8 text: {error}; convert it first") from None
    except OSError as error:
        raise ValueError(
            f"standard input must be text that can be read, got: {error.strerror}; {elsewhere}"
        ) from None


def load_model(name: str, *, dtype: str, device: str | None) -> tuple[Any, Any]:
    """Load the model that ``--model`` names and its tokenizer, enable it, and show the progress.

    Raises:
        OSError: If it cannot be found or read.
        ValueError: If it cannot be steered, or the dtype or device is wrong.

    """
    from guide_ext import integration
    from guide_ext.integration.checkpoint import without_bars

    load = functools.partial(integration.load, name, dtype=dtype, device=device)
    if on_terminal():
        # The libraries below draw their own bars.
        return load(on_note=lambda text: say(f"note: {text}", err=True))
    with progress() as shown, without_bars():
        shown.begin(f"loading the model {name}")
        return load(on_note=lambda text: shown.note(f"note: {text}"))


def checked_text(name: str, text: str) -> str:
    """Return text from the command line, after a check that it was UTF-8.

    Python turns bytes that are not UTF-8 into lone surrogates.

    Raises:
        ValueError: If it holds lone surrogates.

    Example:
        >>> checked_text("the prompt", "déjà-vu")
        'déjà-vu'

    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} must be UTF-8 text: {error}") from None
    return text


def parse_layers(text: str | None) -> list[int] | None:
    """Read a list of layers such as ``0-3,7``.

    Raises:
        ValueError: If the text is not such a list.

    Example:
        >>> parse_layers("0-3,7")
        [0, 1, 2, 3, 7]

    """
    if text is None:
        return None
    layers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        # A range of numbers with more digits would fill the memory, and no model needs it.
        is_range = all(end.isdecimal() and len(end) <= 5 for end in (first, last))
        if not is_range or int(first) > int(last):
            msg = f"--layers must be a list such as 0-3,7 with ranges that rise, got {text!r}"
            raise ValueError(msg)
        layers |= set(range(int(first), int(last) + 1))
    return sorted(layers)


def parse_heads(text: str) -> tuple[tuple[int, int], ...]:
    """Read JSON pairs of a layer and a head: a list, or what ``guide-ext study heads`` saved.

    Raises:
        ValueError: If the text holds something else, or nothing.

    Example:
        >>> parse_heads("[[0, 1], [2, 0]]")
        ((0, 1), (2, 0))
        >>> parse_heads('{"heads": [[2, 0]], "seed": 7}')
        ((2, 0),)

    """
    try:
        value = json.loads(text)
        pairs = value["heads"] if isinstance(value, dict) else value
        found = [(_index(layer), _index(head)) for layer, head in pairs]
    except (ValueError, TypeError, KeyError):
        found = []
    if not found:
        raise ValueError(
            "--heads must be a JSON list of pairs [layer, head], counted from 0, or what 'study "
            "heads' saved, got something else"
        )
    return tuple(found)


def _index(value: object) -> int:
    """Return a whole number from 0; raise TypeError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError("not a whole number from 0")
    return value


def checked_output(path: Path) -> Path:
    """Return the path of ``--out``, after a check that a report can be saved there.

    Raises:
        ValueError: If its suffix is not known, it is a folder, its folder does not exist, or it
            cannot be written.
        MissingPackageError: If a picture is wanted and matplotlib is not installed.

    """
    from guide_ext.report.influence.page import SUFFIXES, checked_suffix

    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--out must end in {', '.join(SUFFIXES)}, got {str(path)!r}")
    checked_suffix(path)
    return checked_file(path)


def checked_file(path: Path) -> Path:
    """Return the path of ``--out``, after a check that a file can be saved there.

    Raises:
        ValueError: If it is a folder, its folder does not exist, or it cannot be written.

    """
    if path.is_dir():
        raise ValueError(f"--out must be a file, got the folder {str(path)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"--out must be in a folder that exists, got {str(path)!r}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"--out must be writable, got {str(path)!r}")
    return path
