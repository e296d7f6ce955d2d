# SPDX-License-Identifier: MIT
"""Figures of rates: over Δ, over the length of the text, over what was trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from guide_ext.studies.report import panels as parts
from guide_ext.studies.report.findings import guided, short, span
from guide_ext.studies.report.panels import MARKERS, Palette, Series
from guide_ext.studies.report.record import Row, StudyRecord, estimate, number, text


@dataclass(frozen=True)
class _Look:
    """How a condition is drawn, in every panel of a figure."""

    color: str
    marker: str
    dash: object


def rates(
    name: str, by_length: str, title: str, column: str, label: str, others: Mapping[str, str]
) -> Callable[[StudyRecord, Palette], Figure]:
    """Return the drawing of a rate over Δ, and over the length of the text if that is known.

    Args:
        name: The table of the rates.
        by_length: The table of the same by length; may be missing.
        title: Of the figure.
        column: The rate.
        label: What to call it.
        others: Columns of further rates over Δ, and what to call them.

    """

    def draw(record: StudyRecord, palette: Palette) -> Figure:
        has_lengths = by_length in record.tables
        figure, panels = parts.canvas(
            record,
            parts.scope(record, name),
            title,
            palette,
            widths=(1.0, 1.25) if has_lengths else (1.0,),
            share_y=True,
        )
        rows = record.rows(name)
        looks = _looks([*rows, *record.rows(by_length)], palette)
        if has_lengths:  # its legend names every Δ
            _over_delta(panels[0], rows, column, looks, palette)
        else:
            line = Series(label, tuple(guided(rows, column)), palette.accents[0])
            parts.draw_series(panels[0], [line])
        for row in filter(_is_wording, rows):
            value, look = estimate(row, column), looks[text(row, "condition")]
            if value is not None:
                parts.draw_level(panels[0], text(row, "condition"), value, look.color, look.dash)
        series = []
        for index, (other, what) in enumerate(others.items()):
            points = tuple(guided(rows, other))
            if points:
                color = palette.soft if other == "well_formed" else palette.accents[3 + index % 2]
                dash = parts.DASHES[1 + index % 3]
                series.append(Series(what, points, color, "", dash))
        parts.draw_series(panels[0], series)
        parts.delta_axis(panels[0], [delta for delta, _ in guided(rows, column)])
        parts.rate_axis(panels[0], label)
        if has_lengths:
            _by_length(panels[1], record.rows(by_length), column, looks)
        parts.legend(figure, panels[::-1], palette, first=looks)
        return figure

    return draw


def _looks(rows: Sequence[Row], palette: Palette) -> dict[str, _Look]:
    """Choose looks: plain grey, Δ from faint to strong, wordings in other colours."""
    firsts: dict[str, Row] = {}
    for row in rows:
        firsts.setdefault(text(row, "condition"), row)
    deltas = {name: number(row, "delta") or 0.0 for name, row in firsts.items()}
    wordings = [name for name, row in firsts.items() if _is_wording(row)]
    strengths = sorted({delta for name, delta in deltas.items() if name not in wordings} - {0.0})
    shades = dict(zip(strengths, palette.strengths(len(strengths)), strict=True))
    looks = {}
    for index, name in enumerate(firsts):
        marker = MARKERS[index % len(MARKERS)]
        if name in wordings:
            at = wordings.index(name)
            color = palette.accents[1 + at % (len(palette.accents) - 1)]
            looks[name] = _Look(color, marker, parts.DASHES[2 + at % 2])
        elif deltas[name]:
            looks[name] = _Look(shades[deltas[name]], marker, "-")
        else:
            looks[name] = _Look(palette.soft, marker, parts.DASHES[1])
    return looks


def _is_wording(row: Row) -> bool:
    return text(row, "style") not in ("plain", "")


def _over_delta(
    panel: Axes, rows: Sequence[Row], column: str, looks: Mapping[str, _Look], palette: Palette
) -> None:
    """Draw every Δ in its own look."""
    line = guided(rows, column)
    panel.plot(
        [delta for delta, _ in line],
        [value.value for _, value in line],
        color=palette.accents[0],
        linewidth=1.4,
    )
    for row in rows:
        name, value, delta = text(row, "condition"), estimate(row, column), number(row, "delta")
        if value is not None and delta is not None and not _is_wording(row):
            look = looks[name]
            parts.draw_series(panel, [Series(name, ((delta, value),), look.color, look.marker, "")])


def _by_length(panel: Axes, rows: Sequence[Row], column: str, looks: Mapping[str, _Look]) -> None:
    lengths = sorted({(number(row, "length_from") or 0.0, span(row)) for row in rows})
    places = {name: index for index, (_, name) in enumerate(lengths)}
    series = []
    for condition in dict.fromkeys(text(row, "condition") for row in rows):
        own = (row for row in rows if text(row, "condition") == condition)
        found = ((float(places[span(row)]), estimate(row, column)) for row in own)
        points = tuple((place, value) for place, value in found if value is not None)
        look = looks[condition]
        line = sorted(points, key=lambda point: point[0])
        series.append(Series(condition, tuple(line), look.color, look.marker, look.dash))
    parts.draw_series(panel, series, dodge=True)
    parts.named_axis(panel, list(places), "tokens of the text")


def sft(record: StudyRecord, palette: Palette) -> Figure:
    """Draw fine-tuning over the tokens that it has seen, GUIDE and the plain model across."""
    figure, panels = parts.canvas(
        record, parts.scope(record, "sft"), "Fine-tuning beside GUIDE", palette
    )
    rows = record.rows("sft")
    tuned = [
        (tokens, value)
        for row in rows
        if text(row, "method") == "sft"
        for tokens, value in [(number(row, "tokens"), estimate(row, "in_french"))]
        if tokens is not None and value is not None
    ]
    tuned.sort(key=lambda point: point[0])
    unit, noun = (1e6, "millions of ") if max([0.0, *(x for x, _ in tuned)]) >= 1e6 else (1.0, "")
    points = tuple((tokens / unit, value) for tokens, value in tuned)
    line = Series("fine-tuning (LoRA)", points, palette.accents[1], "s")
    parts.draw_series(panels[0], [line])
    levels = 0
    for row in rows:
        value, delta = estimate(row, "in_french"), number(row, "delta")
        if value is None or text(row, "method") == "sft":
            continue
        is_plain = text(row, "method") == "plain"
        strength = "" if delta is None or is_plain else f", Δ = {short(delta)}"
        label = "plain" if is_plain else f"GUIDE{strength}"
        color = palette.soft if is_plain else palette.accents[0]
        dash = 1 if is_plain else 2 * levels % 4  # solid first, then dotted
        parts.draw_level(panels[0], label, value, color, parts.DASHES[dash])
        levels += not is_plain
    panels[0].set_xlabel(f"{noun}tokens trained on")
    parts.rate_axis(panels[0], "share in French")
    parts.legend(figure, panels, palette)
    return figure


def quality(record: StudyRecord, palette: Palette) -> Figure:
    """Draw how often the guided summary wins, over Δ."""
    figure, panels = parts.canvas(
        record,
        parts.scope(record, "french_quality"),
        "Share of pairs in which the guided summary has the higher BERTScore",
        palette,
        height=3.4,
    )
    points = tuple(guided(record.rows("french_quality"), "win_rate"))
    parts.draw_series(panels[0], [Series("guided wins", points, palette.accents[0])])
    panels[0].axhline(0.5, color=palette.soft, linestyle=parts.DASHES[1], linewidth=1.2)
    panels[0].annotate(
        "a draw", (0.995, 0.5), xycoords=("axes fraction", "data"), xytext=(0, 3),
        textcoords="offset points", ha="right", fontsize=8.5, color=palette.soft,
    )  # fmt: skip
    parts.delta_axis(panels[0], [delta for delta, _ in points])
    ends = [end for _, value in points for end in (value.value, value.low, value.high)]
    reach = max([0.2, *(1.15 * abs(end - 0.5) for end in ends if end is not None)])
    panels[0].set_ylim(0.5 - reach, 0.5 + reach)
    panels[0].set_ylabel("win rate")
    return figure


def limit(record: StudyRecord, palette: Palette) -> Figure:
    """Draw what happens where Δ is too large: rates, and how much is written."""
    rows = record.rows("delta_limit")
    lengths = tuple(guided(rows, "new_tokens"))
    figure, panels = parts.canvas(
        record,
        parts.scope(record, "delta_limit"),
        "Where Δ is too large",
        palette,
        widths=(1.5, 1.0) if lengths else (1.0,),
        has_intervals=any(value.has_interval for _, value in guided(rows, "right")),
    )
    series: list[Series] = []
    for column, label, color, dash in (
        ("right", "right in every word", palette.accents[2], 0),
        ("in_french", "in French", palette.accents[0], 0),
        ("well_formed", "well-formed", palette.soft, 2),
        ("repeated", "mostly repeating itself", palette.accents[1], 1),
    ):
        points = tuple(guided(rows, column))
        if points:
            marker = MARKERS[len(series)]
            series.append(Series(label, points, color, marker, parts.DASHES[dash]))
    parts.draw_series(panels[0], series)
    parts.rate_axis(panels[0], "share of answers")
    if lengths:
        parts.draw_series(panels[1], [Series("", lengths, palette.accents[3], "D")])
        panels[1].set_ylim(0, 1.08 * max(value.value for _, value in lengths) or 1.0)
        panels[1].set_ylabel("new tokens, mean")
    for panel in panels:
        parts.delta_axis(panel, [number(row, "delta") or 0.0 for row in rows])
    parts.legend(figure, panels[:1], palette)
    return figure
