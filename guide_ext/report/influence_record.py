# SPDX-License-Identifier: MIT
"""What ``measure_prompt`` recorded, checked and ready to be drawn; plain data alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from guide_ext._visible import visible as visible  # all of the report takes it from here

# Ends of scales that read well, times a power of ten.
_ROUND = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


@dataclass(frozen=True)
class Token:
    """One token as it is shown.

    Attributes:
        text: The characters that it adds to the text; empty where it adds none.
        name: What the vocabulary calls it.
        is_special: Whether it stands for no text.

    """

    text: str
    name: str
    is_special: bool

    @property
    def is_raw(self) -> bool:
        """Whether its name must be shown, because it has no text of its own."""
        return self.is_special or not self.text

    @property
    def label(self) -> str:
        """What to call it in one line."""
        return visible(self.name if self.is_raw else self.text)


@dataclass(frozen=True)
class Run:
    """One answer to the prompt.

    Attributes:
        name: ``"plain"`` or ``"guided"``.
        delta: Δ of a level-2 mark, nats.
        answer: What it wrote, without special tokens.
        tokens: Of prompt and answer.
        values: Influence, ``[group][level][token]``; None where it was not measured.
        at_end: For each group the mean at the end of the prompt, after the last layer.
        in_answer: For each group the mean over the answer; None without any measured token.

    """

    name: str
    delta: float
    answer: str
    tokens: tuple[Token, ...]
    values: Sequence[Sequence[Sequence[float | None]]]
    at_end: tuple[float, ...]
    in_answer: tuple[float | None, ...]

    @property
    def label(self) -> str:
        """What to call it."""
        return f"{self.name} (Δ = {self.delta:g})" if self.delta else self.name


@dataclass(frozen=True)
class Record:
    """A measurement of one prompt.

    Attributes:
        model: Name of the model.
        form: Which recursion.
        groups: Names of the groups.
        layers: Number of layers; there is one more level.
        prompt_tokens: Number of tokens of the prompt.
        end_tokens: Over how many of them, from the end, ``at_end`` is the mean.
        nats: Bias of every token of the prompt in the guided run.
        members: For each group, whether it holds each token of the prompt.
        runs: Plain, then guided; plain alone where nothing steers.
        version: Of the package that measured.

    """

    model: str
    form: str
    groups: tuple[str, ...]
    layers: int
    prompt_tokens: int
    end_tokens: int
    nats: tuple[float, ...]
    members: tuple[tuple[bool, ...], ...]
    runs: tuple[Run, ...]
    version: str

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Record:
        """Read what ``measure_prompt`` returned or what was saved of it as JSON.

        Raises:
            ValueError: If it is no such record.

        """
        try:
            return _read(data)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            msg = (
                "record must be what guide_ext.experiments.influence_run.measure_prompt returned, "
                f"got one that cannot be read: {type(error).__name__}: {error}"
            )
            raise ValueError(msg) from None

    def is_member(self, group: int, token: int) -> bool:
        """Whether a token belongs to a group; no token of an answer does."""
        return token < self.prompt_tokens and self.members[group][token]

    def top(self, group: int) -> float:
        """Return where the scale of a group ends: a round number that no other token exceeds.

        The tokens of the group itself are left out: they begin at 1 and would hide all others.

        """
        return self._tops[group]

    @cached_property
    def _tops(self) -> list[float]:
        return [self._top(group) for group in range(len(self.groups))]

    def _top(self, group: int) -> float:
        found = [
            value
            for run in self.runs
            for level in run.values[group][1:]
            for token, value in enumerate(level)
            if value is not None and not self.is_member(group, token)
        ]
        return _round_up(max(found, default=1.0))

    def ranges(self, group: int) -> list[tuple[int, int]]:
        """Return the tokens of a group as half-open ranges."""
        ranges: list[tuple[int, int]] = []
        for token in range(self.prompt_tokens):
            if not self.is_member(group, token):
                continue
            if ranges and ranges[-1][1] == token:
                ranges[-1] = (ranges[-1][0], token + 1)
            else:
                ranges.append((token, token + 1))
        return ranges

    @property
    def longest(self) -> int:
        """Number of tokens of the longest run."""
        return max(len(run.tokens) for run in self.runs)


def _round_up(value: float) -> float:
    """Return the next round number, at most 1."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    found = next((step * power for step in _ROUND if step * power >= value), 10 * power)
    return min(1.0, float(f"{found:.3g}"))


def _tokens(rows: Sequence[Mapping[str, Any]]) -> tuple[Token, ...]:
    return tuple(Token(row["text"], row["token"], bool(row["special"])) for row in rows)


def _read(data: Mapping[str, Any]) -> Record:
    prompt, settings = data["prompt"], data["settings"]
    groups = tuple(data["groups"])
    tokens = _tokens(prompt["tokens"])
    runs = tuple(
        Run(
            name=run["name"],
            delta=float(run["delta"]),
            answer=run["answer"],
            tokens=tokens + _tokens(run["tokens"]),
            values=run["values"],
            at_end=tuple(row["end_of_prompt"] for row in run["summary"]),
            in_answer=tuple(row["answer"] for row in run["summary"]),
        )
        for run in data["runs"]
    )
    record = Record(
        model=data["model"],
        form=settings["form"],
        groups=groups,
        layers=int(data["layers"]),
        prompt_tokens=len(tokens),
        end_tokens=min(int(settings["end_tokens"]), len(tokens)),
        nats=tuple(prompt["nats"]),
        members=tuple(tuple(map(bool, prompt["groups"][name])) for name in groups),
        runs=runs,
        version=data["versions"]["guide_ext"],
    )
    if not groups or not runs:
        raise ValueError("record must hold a group and a run, got none")
    for run in runs:
        sizes = {len(level) for levels in run.values for level in levels}
        levels = {len(levels) for levels in run.values}
        if (len(run.values), levels, sizes) != (
            len(groups),
            {record.layers + 1},
            {len(run.tokens)},
        ):
            msg = (
                f"record must hold {len(groups)} x {record.layers + 1} x {len(run.tokens)} values "
                f"of the {run.name} run, got {len(run.values)} x {levels} x {sizes}"
            )
            raise ValueError(msg)
    return record
