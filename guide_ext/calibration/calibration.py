# SPDX-License-Identifier: MIT
"""Calibrate Δ: find the Δ that has the Influence of an emphasis that people write.

This module searches with any function that measures Influence; `guide_ext.integration.calibrate`
measures with a model.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np

from guide_ext.calibration.bootstrap import spread
from guide_ext.calibration.search import CalibrationError, Crossing, Measure, Search, crossings
from guide_ext.influence.forms import form_named
from guide_ext.steering.steering import Steering
from guide_ext.support.files import write_text
from guide_ext.support.values import as_float, is_int, require_str

__all__ = ["Calibration", "CalibrationError", "Crossing", "Search", "find_delta", "solve"]

CalibrationError.__module__ = "guide_ext.calibration"  # where to import it from

UPPERCASE = "uppercase"

_FORMAT = "guide_ext calibration"
_VERSION = 1
_LARGEST_FILE = 1 << 20  # bytes; a calibration over a thousand prompts takes a fiftieth of that


@dataclass(frozen=True)
class Calibration:
    """A Δ, and the measurements that it was found from.

    Attributes:
        delta: Δ of a level-2 mark, nats.
        target: The Influence to match, from 0 to 1, as a mean over the prompts.
        interval: Lowest and highest Δ, nats. For one prompt, the true Δ of that prompt lies between
            them. For several, 95 % of other draws of such prompts would give a Δ between them
            (bootstrap over the prompts), within the range of the search.
        curve: Every measured ``(delta, influence)``, mean over the prompts, by rising Δ.
        per_prompt: Δ of every prompt alone; None if no Δ in the range matches it.
        passes: Number of forward passes that were run.
        emphasis: What was matched: ``"uppercase"``, or a factor of the Influence at Δ = 0.
        form: Form of Influence, see `guide_ext.influence.form_named`.
        last_tokens: How many tokens at the end of each prompt the Influence averages.
        model: Name of the model.

    Raises:
        ValueError: If a value is out of range, or the values contradict each other.

    Example:
        >>> found = Calibration(0.5, 0.2, (0.49, 0.5), ((0.0, 0.1), (0.5, 0.2)), (0.5,), 6)
        >>> found.steering().delta_mid
        0.5
        >>> Calibration.from_json(found.to_json()) == found
        True

    """

    delta: float
    target: float
    interval: tuple[float, float]
    curve: tuple[tuple[float, float], ...]
    per_prompt: tuple[float | None, ...]
    passes: int
    emphasis: str | float = UPPERCASE
    form: str = "paper"
    last_tokens: int = 10
    model: str = ""

    def __post_init__(self) -> None:
        """Check every field."""
        _require("interval", "two numbers", self.interval, _is_pair(self.interval))
        points = isinstance(self.curve, (list, tuple)) and all(map(_is_pair, self.curve))
        _require("curve", "pairs of numbers", self.curve, points)
        several = isinstance(self.per_prompt, (list, tuple))
        _require("per_prompt", "a tuple of numbers or None", self.per_prompt, several)
        for name, value in self._numbers():
            if not math.isfinite(as_float(value)):
                raise ValueError(f"Calibration: {name} must be a finite number, got {value!r}")
        low, high = self.interval
        if not low <= self.delta <= high:
            raise ValueError(
                f"Calibration: interval must hold delta={self.delta!r}, got {list(self.interval)}"
            )
        _require("target", "from 0 to 1", self.target, 0 <= self.target <= 1)
        deltas = [delta for delta, _ in self.curve]
        rising = all(a < b for a, b in pairwise(deltas))
        _require("curve", "at least one point, by rising Δ", deltas, bool(deltas) and rising)
        between = all(0 <= influence <= 1 for _, influence in self.curve)
        _require("curve", "Influence from 0 to 1", list(self.curve), between)
        _require("per_prompt", "at least one", self.per_prompt, len(self.per_prompt) > 0)
        for name in ("passes", "last_tokens"):
            value = getattr(self, name)
            _require(name, "a whole number from 1", value, is_int(value) and value >= 1)
        if not (isinstance(self.emphasis, str) and self.emphasis == UPPERCASE):
            factor = as_float(self.emphasis)
            is_factor = math.isfinite(factor) and factor > 0
            _require("emphasis", "'uppercase' or a factor above 0", self.emphasis, is_factor)
        _require("form", "a str", self.form, isinstance(self.form, str))
        form_named(self.form)
        _require("model", "a str", self.model, isinstance(self.model, str))

    def _numbers(self) -> list[tuple[str, Any]]:
        named: list[tuple[str, Any]] = [("delta", self.delta), ("target", self.target)]
        named += [("interval", value) for value in self.interval]
        named += [("curve", value) for point in self.curve for value in point]
        named += [("per_prompt", value) for value in self.per_prompt if value is not None]
        return named

    def steering(self) -> Steering:
        """Return the steering in which level 2 (``<!!->``) means this Δ, 1 half and 3 twice it."""
        return Steering.guide(self.delta)

    def to_json(self) -> str:
        """Return the calibration as one JSON object, for `from_json`."""
        return json.dumps({"format": _FORMAT, "version": _VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Read what `to_json` wrote.

        Args:
            text: One JSON object. Every field is checked, as the text may come from anywhere.

        Raises:
            ValueError: If it is not a calibration, or has another version.
            TypeError: If `text` is not a str.

        Example:
            >>> Calibration.from_json('{"format": "guide_ext calibration", "version": 2}')
            Traceback (most recent call last):
            ...
            ValueError: a calibration must have version 1, got 2

        """
        require_str("text", text)
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"a calibration must be JSON, got text that is not: {error}") from None
        if not isinstance(record, dict) or record.pop("format", None) != _FORMAT:
            raise ValueError(
                f'a calibration must be a JSON object with "format": "{_FORMAT}", got something '
                "else; `guide-ext calibrate --out FILE` writes one"
            )
        version = record.pop("version", None)
        if not is_int(version) or version != _VERSION:
            raise ValueError(f"a calibration must have version {_VERSION}, got {version!r}")
        names = {field.name for field in fields(cls)}
        if record.keys() != names:
            missing, unknown = sorted(names - record.keys()), sorted(record.keys() - names)
            raise ValueError(
                f"a calibration must have its fields and no others, got {missing} missing and "
                f"{unknown} unknown"
            )
        record["interval"] = _pair("interval", record["interval"])
        points = _items("curve", record["curve"])
        record["curve"] = tuple(_pair("curve", point) for point in points)
        record["per_prompt"] = tuple(_items("per_prompt", record["per_prompt"]))
        return cls(**record)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the calibration to a file, for `load`.

        Raises:
            OSError: If the file cannot be written.

        """
        write_text(path, self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read a file that `save` wrote.

        Raises:
            OSError: If there is no such file.
            ValueError: If it is not a calibration, or has another version.

        """
        with open(path, "rb") as file:
            raw = file.read(_LARGEST_FILE + 1)
        try:
            if len(raw) > _LARGEST_FILE:
                raise ValueError(
                    f"a calibration must be of at most {_LARGEST_FILE} bytes, got more"
                )
            return cls.from_json(raw.decode("utf-8"))
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from None


def find_delta(
    measure: Callable[[float], float], target: float, search: Search | None = None
) -> Crossing:
    """Find the Δ at which a rising curve reaches a target.

    Args:
        measure: Returns the Influence, from 0 to 1, at a Δ in nats. It is called for a handful of
            Δ, 0 first.
        target: Influence to reach.
        search: Where to look and how closely; None for the defaults of `Search`.

    Returns:
        The Δ, the bracket around it, and every point that was measured.

    Raises:
        CalibrationError: If the target is not reached in the range, or a measured point is lower
            than one at a smaller Δ. A curve that falls and rises again between two measured points
            is not noticed.
        ValueError: If `target` is not finite, or `measure` returns anything but an Influence.
        TypeError: If `measure` cannot be called, or `search` is not a `Search`.

    Example:
        >>> import math
        >>> found = find_delta(lambda delta: 1 / (1 + 9 * math.exp(-delta)), target=0.2)
        >>> f"{found.delta:.2f}", f"{math.log(9 / 4):.2f}", len(found.curve)
        ('0.81', '0.81', 3)

    """
    _check_measure(measure)
    goals, search = [_target(target)], _search(search)
    (found,) = crossings(lambda deltas: {0: measure(deltas[0])}, goals, search, [{}])
    if isinstance(found, CalibrationError):
        raise found
    return found


def solve(measure: Measure, targets: Sequence[float], search: Search | None = None) -> Calibration:
    """Find one Δ for several prompts together, and one for each prompt alone.

    The first search is for the Δ at which the mean Influence over the prompts is the mean of their
    targets. It measures every prompt, and the search for each prompt alone starts from these
    points. Those searches advance together, so that a caller can measure them in one batch.

    Args:
        measure: Takes a Δ for some prompts by number, such as ``{0: 0.5, 2: 0.5}``, and returns the
            Influence of the same prompts.
        targets: Influence to reach, one per prompt.
        search: Where to look and how closely; None for the defaults of `Search`.

    Returns:
        The calibration. Its `passes` counts calls of `measure`; `emphasis`, `form`, `last_tokens`
        and `model` have their defaults.

    Raises:
        CalibrationError: As in `find_delta`, for the mean. A prompt without a Δ of its own is no
            error: its entry in `per_prompt` is None.
        ValueError: If there is no target, one is not finite, or `measure` returns anything but an
            Influence for each prompt that it was asked for.
        TypeError: If `measure` cannot be called, `targets` is not a list, or `search` is not a
            `Search`.

    Example:
        >>> import math
        >>> odds = {0: 1 / 9, 1: 1 / 4}
        >>> def measure(deltas):
        ...     grown = {row: odds[row] * math.exp(delta) for row, delta in deltas.items()}
        ...     return {row: value / (1 + value) for row, value in grown.items()}
        >>> found = solve(measure, targets=[0.2, 0.3])
        >>> [f"{delta:.2f}" for delta in (found.delta, *found.per_prompt)]
        ['0.65', '0.81', '0.54']

    """
    _check_measure(measure)
    search = _search(search)
    if isinstance(targets, str) or not isinstance(targets, (Sequence, np.ndarray)):
        raise TypeError(f"targets must be a list of Influence, got {type(targets).__name__}")
    goals = [_target(target) for target in targets]
    if not goals:
        raise ValueError("targets must be at least one, got none")
    meter = _CheckedMeasure(measure, len(goals))
    rows = range(len(goals))

    def mean_at(delta: float) -> float:
        return math.fsum(meter(dict.fromkeys(rows, delta)).values()) / len(goals)

    goal = math.fsum(goals) / len(goals)
    pooled = find_delta(mean_at, goal, search)
    if len(goals) == 1:
        return Calibration(
            pooled.delta, goal, pooled.bracket, pooled.curve, (pooled.delta,), meter.calls
        )
    shared = [delta for delta, _ in pooled.curve]
    curves = np.array([[meter.curves[row][delta] for delta in shared] for row in rows])
    low, high = spread(np.array(shared), curves, np.array(goals), search)
    alone = crossings(meter, goals, search, meter.curves)
    return Calibration(
        pooled.delta,
        goal,
        (min(low, pooled.bracket[0]), max(high, pooled.bracket[1])),
        pooled.curve,
        tuple(found.delta if isinstance(found, Crossing) else None for found in alone),
        meter.calls,
    )


class _CheckedMeasure:
    """Calls `measure`, checks what it returns, and remembers it."""

    def __init__(self, measure: Measure, prompts: int) -> None:
        self._measure = measure
        self.calls = 0
        self.curves: list[dict[float, float]] = [{} for _ in range(prompts)]

    def __call__(self, deltas: Mapping[int, float]) -> dict[int, float]:
        self.calls += 1
        measured = self._measure(deltas)
        if not isinstance(measured, Mapping):
            raise ValueError(
                "measure must return Influence by prompt, such as {0: 0.2}, got "
                f"{type(measured).__name__}"
            )
        values = dict(measured)
        if values.keys() != deltas.keys():
            raise ValueError(
                f"measure must return Influence of the prompts {sorted(deltas)}, "
                f"got {sorted(values)}"
            )
        for row, value in values.items():
            if not math.isfinite(as_float(value)):
                raise ValueError(
                    f"measure must return a finite Influence, got {value!r} for prompt {row} "
                    f"at Δ = {deltas[row]:.6g}"
                )
            self.curves[row][deltas[row]] = float(value)
        return values


def _check_measure(measure: object) -> None:
    if not callable(measure):
        raise TypeError(f"measure must be a function, got {type(measure).__name__}")


def _search(search: object) -> Search:
    if search is None:
        return Search()
    if not isinstance(search, Search):
        raise TypeError(f"search must be a Search or None, got {type(search).__name__}")
    return search


def _is_pair(value: object) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2


def _target(target: float) -> float:
    number = as_float(target)
    if not math.isfinite(number):
        raise ValueError(f"target must be a finite Influence, got {target!r}")
    return number


def _require(name: str, expected: str, value: object, holds: bool) -> None:
    if not holds:
        raise ValueError(f"Calibration: {name} must be {expected}, got {value!r}")


def _items(name: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"Calibration: {name} must be a list, got {value!r}")
    return value


def _pair(name: str, value: object) -> tuple[Any, Any]:
    pair = _items(name, value)
    if len(pair) != 2:
        raise ValueError(f"Calibration: {name} must have two numbers at a time, got {pair!r}")
    return pair[0], pair[1]
