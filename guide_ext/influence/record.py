# SPDX-License-Identifier: MIT
"""The record of one measurement: its format, checks of it, and the numbers that reports need.

`guide_ext.integration.compare.measure_prompt` makes records. They are plain data, ready for
``json.dumps``:

============  ======================================================================================
``kind``      ``"guide_ext influence"``, with ``format``, a number that changes with the layout
``model``     name
``settings``  ``delta`` (nats), ``form``, ``max_new_tokens``, ``temperature``, ``seed``, and
              ``end_tokens``: how many tokens at the end of the prompt the summary averages
``groups``    names; ``layers``: their number
``prompt``    ``text`` that the model read, ``tokens``, ``nats`` of the guided run (one per token),
              ``groups``: for each name one flag per token
``runs``      plain, then guided; only plain if nothing steers. Each has ``name``, ``delta``,
              ``answer``, ``tokens`` of the answer, ``values[group][level][token]`` over prompt and
              answer, and ``summary``: for each group ``end_of_prompt`` and ``answer``, means after
              the last layer
``versions``  of the packages that ran
``machine``   processor, threads and GPU
============  ======================================================================================

A token has ``id``, ``token`` (its name), ``text`` (what it adds to the text) and ``special``.
Values are rounded to six digits. Level 0 holds the marks themselves. The model writes the last
token but never reads it, so its values are null.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from guide_ext.support import plain_data
from guide_ext.support.visible import visible as visible  # the reports import it from here

KIND, FORMAT = "guide_ext influence", 1
PLAIN, GUIDED = "plain", "guided"
_SMALL = 0.001  # numbers below this get six digits instead of four
_NOTHING = 1e-9
# Round numbers that a scale may end at, times a power of ten.
_ROUND = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


def number_text(value: float | None, *, is_signed: bool = False) -> str:
    """Format Influence, or a difference of it, with more digits where it is small; "–" for None.

    Example:
        >>> number_text(0.03125), number_text(0.00004), number_text(None)
        ('0.0312', '0.00004', '–')
        >>> number_text(0.25, is_signed=True), number_text(-0.25, is_signed=True)
        ('+0.2500', '−0.2500')

    """
    if value is None:
        return "–"
    # Records hold six digits.
    shown = f"{abs(value):.4f}"
    if 0 < abs(value) < _SMALL:
        shown = f"{abs(value):.6f}".rstrip("0")
    sign = "−" if value < 0 else "+" if is_signed and value else ""
    return f"{sign}{shown}"


@dataclass(frozen=True)
class Token:
    """One token, as reports show it.

    Attributes:
        text: The characters that it adds to the text; may be empty.
        name: Its name in the vocabulary.
        is_special: Whether it is a special token, which stands for no text.

    """

    text: str
    name: str
    is_special: bool

    @property
    def is_raw(self) -> bool:
        """Whether reports show its name, because it has no text of its own."""
        return self.is_special or not self.text

    @property
    def label(self) -> str:
        """Its text, or its name if it is raw, on one line and with control characters visible."""
        return visible(self.name if self.is_raw else self.text)


@dataclass(frozen=True)
class Run:
    """One answer to the prompt.

    Attributes:
        name: ``"plain"`` or ``"guided"``.
        delta: Δ of a level-2 mark, nats.
        answer: The answer, without special tokens.
        tokens: Tokens of prompt and answer.
        values: Influence, ``[group][level][token]``; None where it was not measured.
        at_end: For each group, the mean over the end of the prompt, after the last layer; None if
            the model computed NaN.
        in_answer: For each group, the mean over the answer, after the last layer; None if no token
            of it was measured.

    """

    name: str
    delta: float
    answer: str
    tokens: tuple[Token, ...]
    values: Sequence[Sequence[Sequence[float | None]]]
    at_end: tuple[float | None, ...]
    in_answer: tuple[float | None, ...]

    @property
    def label(self) -> str:
        """Its name, with Δ if there is one."""
        return f"{self.name} (Δ = {self.delta:g})" if self.delta else self.name


@dataclass(frozen=True)
class Record:
    """A measurement of one prompt.

    Attributes:
        model: Name of the model.
        form: Name of the recursion.
        groups: Names of the groups.
        layers: Number of layers; there is one more level.
        prompt_tokens: Number of tokens of the prompt.
        end_tokens: How many tokens at the end of the prompt ``at_end`` averages.
        nats: Bias of every token of the prompt in the guided run.
        members: For each group, one flag per token of the prompt: whether the group holds it.
        runs: Plain, then guided; only plain if nothing steers.
        version: Version of guide_ext that measured.

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
        """Read what ``measure_prompt`` returned, or the same loaded from JSON.

        Raises:
            ValueError: If it is not such a record.

        """
        if not isinstance(data, Mapping):
            raise ValueError(f"record must be a JSON object, got {type(data).__name__}")
        if (data.get("kind"), data.get("format")) != (KIND, FORMAT):
            kind, version = (plain_data.brief(data.get(name)) for name in ("kind", "format"))
            raise ValueError(
                "record must be what guide_ext.integration.compare.measure_prompt returned, "
                f"of kind {KIND!r}, format {FORMAT}, got {kind}, format {version}"
            )
        return _read(data)

    def is_member(self, group: int, token: int) -> bool:
        """Return whether a token belongs to a group; tokens of an answer never do."""
        return token < self.prompt_tokens and self.members[group][token]

    def top(self, group: int, level: int | None = None) -> float:
        """Return the end of the scale for a group: a round number from its largest Influence up.

        The tokens of the group itself are left out: they begin at 1 and would hide all others.

        Args:
            group: Index of the group.
            level: The layer after which to look; None for all layers together.

        """
        return self._end(self._largest, group, level)

    def difference_top(self, group: int, level: int | None = None) -> float:
        """Return the end of the scale for guided minus plain, for the size of the difference."""
        return self._end(self._largest_difference, group, level)

    @property
    def is_compared(self) -> bool:
        """Whether there are a plain run and a guided one."""
        return len(self.runs) == 2

    @cached_property
    def compared_tokens(self) -> int:
        """Number of tokens, from the start, that are the same in both runs.

        After them the runs hold different words, so a difference of Influence means nothing.

        """
        if not self.is_compared:
            return 0
        answers = zip(*(run.tokens[self.prompt_tokens :] for run in self.runs), strict=False)
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], answers)
        return self.prompt_tokens + sum(1 for _ in same)

    def difference(self, group: int, level: int, token: int) -> float | None:
        """Return guided minus plain; None if either was not measured or the tokens differ."""
        if token >= self.compared_tokens:
            return None
        plain, guided = (run.values[group][level][token] for run in self.runs)
        return None if plain is None or guided is None else guided - plain

    def _end(self, largest: list[list[float]], group: int, level: int | None) -> float:
        levels = largest[group]
        return _round_up(max(levels[1:]) if level is None else levels[level])

    @cached_property
    def _largest(self) -> list[list[float]]:
        return self._over_levels(
            lambda group, level: [run.values[group][level] for run in self.runs]
        )

    @cached_property
    def _largest_difference(self) -> list[list[float]]:
        tokens = range(self.compared_tokens)
        return self._over_levels(
            lambda group, level: [[self.difference(group, level, token) for token in tokens]]
        )

    def _over_levels(
        self, rows: Callable[[int, int], Sequence[Sequence[float | None]]]
    ) -> list[list[float]]:
        """Return for every group and level the largest size outside the group; 0 if none."""
        return [
            [
                max(
                    (
                        abs(value)
                        for row in rows(group, level)
                        for token, value in enumerate(row)
                        if value is not None and not self.is_member(group, token)
                    ),
                    default=0.0,
                )
                for level in range(self.layers + 1)
            ]
            for group in range(len(self.groups))
        ]

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
    """Return the next larger round number, at most 1; 1 if the value is as good as 0."""
    if value < _NOTHING:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    # A difference of numbers with six digits may exceed a round number by rounding alone.
    value -= _NOTHING
    found = next((step * power for step in _ROUND if step * power >= value), 10 * power)
    return min(1.0, float(f"{found:.3g}"))


def _read(data: Mapping[str, Any]) -> Record:
    whole = "record"
    prompt = plain_data.mapping(data, "prompt", whole)
    settings = plain_data.mapping(data, "settings", whole)
    groups = data.get("groups")
    if not plain_data.is_list(groups) or not all(isinstance(name, str) for name in groups):
        raise ValueError(f"groups of the record must be texts, got {plain_data.brief(groups)}")
    if not groups or len(set(groups)) != len(groups):
        raise ValueError(
            f"groups of the record must be different ones, at least one, got "
            f"{plain_data.brief(list(groups))}"
        )
    tokens = _tokens(prompt, "prompt")
    layers = plain_data.whole(data, "layers", whole)
    flags = plain_data.mapping(prompt, "groups", "prompt")
    runs = plain_data.objects(data, "runs", whole)
    names = [run.get("name") for run in runs]
    if names not in ([PLAIN], [PLAIN, GUIDED]):
        raise ValueError(
            f"runs of the record must be {PLAIN!r}, or {PLAIN!r} and {GUIDED!r}, got "
            f"{plain_data.brief(names)}"
        )
    return Record(
        model=plain_data.string(data, "model", whole),
        form=plain_data.string(settings, "form", "settings"),
        groups=tuple(groups),
        layers=layers,
        prompt_tokens=len(tokens),
        end_tokens=min(plain_data.whole(settings, "end_tokens", "settings"), len(tokens)),
        nats=tuple(
            plain_data.number(value, "each of nats of the prompt")
            for value in _row(prompt.get("nats"), len(tokens), "nats of the prompt")
        ),
        members=tuple(_members(flags, name, len(tokens)) for name in groups),
        runs=tuple(_run(run, tokens, tuple(groups), layers) for run in runs),
        version=plain_data.string(
            plain_data.mapping(data, "versions", whole), "guide_ext", "versions"
        ),
    )


def _run(
    data: Mapping[str, Any], prompt: tuple[Token, ...], groups: tuple[str, ...], layers: int
) -> Run:
    where = f"{data['name']} run"
    tokens = prompt + _tokens(data, where)
    values = _levels(data.get("values"), len(groups), layers, len(tokens), where)
    for value in (value for group in values for level in group for value in level):
        if value is not None and not (plain_data.is_finite_number(value) and value >= 0):
            raise ValueError(
                f"each of the values of the {where} must be null or a finite number from 0, got "
                f"{plain_data.brief(value)}"
            )
    summary = plain_data.objects(data, "summary", where)
    if (names := tuple(row.get("group") for row in summary)) != groups:
        raise ValueError(
            f"summary of the {where} must be of the groups {plain_data.brief(list(groups))}, got "
            f"{plain_data.brief(list(names))}"
        )
    return Run(
        name=plain_data.string(data, "name", where),
        delta=plain_data.number(data.get("delta"), f"delta of the {where}"),
        answer=plain_data.string(data, "answer", where),
        tokens=tokens,
        values=values,
        at_end=tuple(_mean(row, "end_of_prompt", where) for row in summary),
        in_answer=tuple(_mean(row, "answer", where) for row in summary),
    )


def _tokens(data: Mapping[str, Any], where: str) -> tuple[Token, ...]:
    found = tuple(
        Token(
            plain_data.string(row, "text", f"token {at} of the {where}"),
            plain_data.string(row, "token", f"token {at} of the {where}"),
            _flag(row.get("special"), f"special of the token {at} of the {where}"),
        )
        for at, row in enumerate(plain_data.objects(data, "tokens", where))
    )
    if where == "prompt" and not found:
        raise ValueError("tokens of the prompt must be at least one, got none")
    return found


def _members(flags: Mapping[str, Any], name: str, tokens: int) -> tuple[bool, ...]:
    where = f"group {plain_data.brief(name)} of the prompt"
    row = _row(flags.get(name), tokens, where)
    return tuple(_flag(value, f"each of the {where}") for value in row)


def _flag(value: Any, where: str) -> bool:
    if value not in (False, True):
        raise ValueError(f"{where} must be true or false, got {plain_data.brief(value)}")
    return bool(value)


def _mean(row: Mapping[str, Any], name: str, where: str) -> float | None:
    value = row.get(name)
    return None if value is None else plain_data.number(value, f"{name} of the {where}")


def _row(value: Any, length: int, where: str) -> Sequence[Any]:
    if not plain_data.is_list(value) or len(value) != length:
        got = f"{len(value)} values" if plain_data.is_list(value) else plain_data.brief(value)
        raise ValueError(f"{where} must be a list of {length} values, got {got}")
    return value


def _levels(value: Any, groups: int, layers: int, tokens: int, where: str) -> Sequence[Any]:
    for group in _row(value, groups, f"values of the {where}"):
        for level in _row(group, layers + 1, f"values of a group of the {where}"):
            _row(level, tokens, f"values of a layer of the {where}")
    found: Sequence[Any] = value
    return found
