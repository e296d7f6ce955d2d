# SPDX-License-Identifier: MIT
"""Tables and coloured text that the command line shows on a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from guide_ext.calibration.calibration import Calibration
from guide_ext.influence.record import Record, number_text
from guide_ext.machine.doctor import Diagnosis
from guide_ext.marking.tokens import Encoding
from guide_ext.report.console import shown
from guide_ext.report.narrow import Fitting
from guide_ext.support.visible import for_terminal

# Backgrounds from weak to strong emphasis, and for text that is played down. The foreground is set,
# too, so that they can be read on light and dark terminals.
_UP = ("black on #ffe08a", "black on #ffb347", "black on #ff7f50", "white on #d1495b")
_DOWN = "white on #4a6fa5"
_GROUP = "underline"
_NATS_PER_SHADE = 1.0
_BASELINES = {"upper": "UPPER CASE, Δ = 0", "important": "“Important: …”, Δ = 0"}
_LONGEST_SAMPLE = 160


def _style(nats: float, in_group: bool) -> str:
    shade = ""
    if nats > 0:
        shade = _UP[min(int(nats / _NATS_PER_SHADE), len(_UP) - 1)]
    elif nats < 0:
        shade = _DOWN
    return " ".join(part for part in (_GROUP if in_group else "", shade) if part)


def marked_tokens(encoding: Encoding, pieces: Sequence[str], delta: float) -> RenderableType:
    """Show a prompt token by token: coloured if it is steered, underlined if it is in a group.

    Args:
        encoding: The prompt's tokens and spans.
        pieces: Names of the tokens in the vocabulary, one per id.
        delta: Δ of a level-2 mark, nats.

    """
    nats = encoding.nats(delta)
    groups = encoding.groups()
    watched = [any(mask[index] for mask in groups.values()) for index in range(len(nats))]
    styles = [_style(*one) for one in zip(nats, watched, strict=True)]
    text = Text()
    table = Table(title="marked tokens", show_edge=False)
    for column in ("index", "id", "token", "text", "bias (nats)", "groups"):
        is_count = column in ("index", "id")
        is_text = column in ("token", "text", "groups")
        table.add_column(
            column,
            justify="right" if is_count else "left",
            overflow="fold" if is_text else "ellipsis",
        )
    for index, (start, end) in enumerate(encoding.offsets):
        style = styles[index]
        piece = encoding.text[start:end] or pieces[index]
        text.append(for_terminal(piece), style=style or "dim")
        # The gap between tokens of the same style has that style, too: one band, not many boxes.
        is_inside = styles[index + 1 : index + 2] == [style]
        text.append("\u200a" if end > start else "", style=style if is_inside else "")
        if style:
            names = ", ".join(name for name, mask in groups.items() if mask[index])
            table.add_row(
                str(index),
                str(encoding.input_ids[index]),
                shown(pieces[index]),
                shown(repr(encoding.text[start:end])),
                f"{nats[index]:+g}" if nats[index] else "",
                shown(names),
            )
    count = sum(bool(value) for value in nats)
    summary = f"{len(nats)} tokens, {count} steered, {sum(watched)} watched"
    return Group(Panel(text, title="prompt"), Fitting(table), Text(summary))


def side_by_side(
    plain: str, guided: str, delta: float | None, *, verdicts: tuple[str, str] = ("", "")
) -> RenderableType:
    """Show the plain and the guided answer to one prompt next to each other.

    Args:
        plain: The plain answer.
        guided: The guided one.
        delta: Δ of the guided one; None for one of each head's own.
        verdicts: What is said of each answer in its heading.

    """
    table = Table(show_lines=True, expand=True)
    how = "learned Δ" if delta is None else f"Δ = {delta:g}"
    for name, verdict in zip(("plain", f"guided ({how})"), verdicts, strict=True):
        table.add_column(f"{name}: {verdict}" if verdict else name, overflow="fold")
    table.add_row(shown(plain), shown(guided))
    return Fitting(table)


def diagnosis_report(diagnosis: Diagnosis) -> RenderableType:
    """Show what ``guide-ext doctor`` found."""
    facts = Table(show_header=False, show_edge=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for name, value in diagnosis.versions.items():
        facts.add_row(name, shown(value))
    for name, value in diagnosis.machine.items():
        facts.add_row(name, shown(value))
    facts.add_row("compiled library", shown(diagnosis.library_reason))
    facts.add_row("CUDA library", shown(diagnosis.cuda_library_reason))
    for name, value in diagnosis.build.items():
        facts.add_row(
            f"build: {name}",
            shown((", ".join(value) if isinstance(value, list) else value) or "none"),
        )
    for name, value in diagnosis.auto_dtypes.items():
        facts.add_row(f"--dtype auto, {name}", shown(value))
    kernels = Table(title="which kernel serves a call")
    for column in ("device", "dtype", "kernel"):
        kernels.add_column(column)
    kernels.add_column("why not a faster one", overflow="fold")
    for choice in diagnosis.kernels:
        why = "\n".join(choice.reasons) or "this is the fastest one here"
        kernels.add_row(choice.device, choice.dtype, choice.kernel, shown(why))
    return Group(Fitting(facts), Text(), Fitting(kernels))


def calibration_report(found: Calibration) -> RenderableType:
    """Show a calibration: Δ, its interval, and the curve that it was read from."""
    low, high = found.interval
    matched = found.emphasis if isinstance(found.emphasis, str) else f"{found.emphasis:g} times"
    summary = Table(show_header=False, show_edge=False)
    summary.add_column(style="bold")
    summary.add_column(overflow="fold")
    several = len(found.per_prompt) > 1
    meaning = "95 %, for other prompts like these" if several else "for this prompt"
    summary.add_row("Δ", f"{found.delta:.3f} nats")
    summary.add_row("between", f"{low:.3f} and {high:.3f} ({meaning})")
    summary.add_row("matches", shown(f"{matched}: Influence {found.target:.4g} ({found.form})"))
    if several:
        each = ", ".join("none" if d is None else f"{d:.3f}" for d in found.per_prompt)
        summary.add_row("of each prompt", each)
    summary.add_row("forward passes", str(found.passes))
    curve = Table(show_edge=False)
    for column in ("Δ (nats)", "Influence"):
        curve.add_column(column, justify="right")
    for delta, influence in found.curve:
        curve.add_row(f"{delta:.3f}", f"{influence:.4g}", style="bold" * (delta == found.delta))
    return Group(Fitting(summary), Text(), Fitting(curve))


def demo_report(result: dict[str, Any]) -> RenderableType:
    """Show a saved demo result: rates with intervals, speed, and answers side by side."""
    parts: list[RenderableType] = []
    for task in result["tasks"]:
        table = Table(title=shown(task["title"]))
        for column in ("Δ (nats)", "right", "95 % interval", "well-formed"):
            table.add_column(column, justify="right")
        for row in task["rows"]:
            low, high = row["success_interval"]
            label = _BASELINES.get(row["variant"], f"{row['delta']:g}")
            table.add_row(
                label,
                f"{row['success']:.1%}",
                f"{low:.1%} – {high:.1%}",
                f"{row['well_formed']:.1%}",
            )
        parts.append(Fitting(table))
        for sample in task["samples"]:
            answers = Table(show_header=False, show_edge=False)
            answers.add_column(style="bold")
            answers.add_column(overflow="fold")
            answers.add_row("prompt", shown(sample["prompt"]))
            answers.add_row("wanted", shown(sample["wanted"]))
            for delta, answer in sample["answers"].items():
                short = textwrap.shorten(answer, _LONGEST_SAMPLE, placeholder=" …")
                answers.add_row(f"Δ = {delta}", shown(short))
            parts.append(Panel(Fitting(answers)))
    timing = result["speed"]
    title = (
        f"speed of generate(): {timing['prompts']} prompts of {timing['prompt_tokens']} tokens, "
        f"{timing['new_tokens']} new ones each, median of {timing['rounds']} rounds"
    )
    speed = Table(title=title)
    for column in ("attention", "tokens / s", "time against sdpa"):
        speed.add_column(column, justify="right")
    for row in timing["rows"]:
        speed.add_row(
            shown(row["attention"]), f"{row['tokens_per_second']:.0f}", f"{row['time_ratio']:.2f}×"
        )
    parts.append(Fitting(speed))
    return Group(*parts)


def influence_table(record: dict[str, Any]) -> RenderableType:
    """Show the mean Influence in a record, and the answers.

    Args:
        record: What `guide_ext.integration.compare.measure_prompt` returned.

    Raises:
        ValueError: If it is not such a record.

    """
    read = Record.read(record)
    title = f"Influence ({read.form}), mean after layer {read.layers}"
    table = Table(title=shown(title))
    table.add_column("group", overflow="fold")
    table.add_column("over")
    answers = Table(show_lines=True, title="answers")
    for run in read.runs:
        table.add_column(shown(run.label), justify="right")
        answers.add_column(shown(run.label), overflow="fold")
    end = f"last {read.end_tokens} tokens of the prompt"
    for index, group in enumerate(read.groups):
        for place, values in (
            (end, [run.at_end[index] for run in read.runs]),
            ("answer", [run.in_answer[index] for run in read.runs]),
        ):
            table.add_row(shown(group), place, *map(number_text, values))
    answers.add_row(*(shown(run.answer) for run in read.runs))
    return Group(Fitting(table), Fitting(answers))
