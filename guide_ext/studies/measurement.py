# SPDX-License-Identifier: MIT
"""Measurements: what is read off one forward pass of a prompt, without an answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Read = Callable[[Any, Any, Sequence[Any], Sequence[int]], list[dict[str, Any]]]
"""From a model, its tokenizer, marked prompts and the number of end tokens of each to what each
prompt gives."""


@dataclass(frozen=True)
class Measurement:
    """Something that is measured on a prompt.

    Attributes:
        kind: The kind of the cells that measure it.
        read: Measures it on a batch of prompts; returns plain data for the shard of each.
        of_emphasis: Whether the part that is marked is emphasised text of level 2; otherwise it is
            the group whose Influence is wanted.
        most: How many prompts a batch has at most; None for as many as the run says. What takes
            prompts one by one should be saved one by one, too.

    """

    kind: str
    read: Read
    of_emphasis: bool = False
    most: int | None = None


def _influences(
    model: Any, tokenizer: Any, prompts: Sequence[Any], end_tokens: Sequence[int]
) -> list[dict[str, Any]]:
    """Measure every form of Influence for every level, averaged over the end of the prompt."""
    from guide_ext import integration  # these load torch, which listing studies does not need
    from guide_ext.influence.forms import FORMS
    from guide_ext.integration.influence.measure import influence_in_forms

    inputs = integration.encode(model, tokenizer, prompts, delta=0.0)
    results: list[dict[str, Any]] = [{"levels": {}} for _ in end_tokens]
    for form, measured in influence_in_forms(model, inputs, list(FORMS)).items():
        for result, count, values in zip(
            results, end_tokens, measured.values[:, :, 0], strict=True
        ):
            end = values[:, -count:].mean(1)
            result["levels"][form] = [rounded(value) for value in end.tolist()]
    return results


def rounded(value: float) -> float:
    """Return a number with as many significant digits as float32 has.

    Not with as many decimals: in deep models, rollout ends in millionths.

    Raises:
        ValueError: If it is no finite number.

    Example:
        >>> rounded(0.123456789), rounded(1.23456789e-9)
        (0.1234568, 1.234568e-09)

    """
    if not math.isfinite(value):
        raise ValueError(f"Influence must be finite, got {value}: the model computes no numbers")
    return float(f"{value:.7g}")


INFLUENCE = Measurement("measure", _influences)
"""Influence, rollout and raw attention of the marked part, at the end of the prompt."""


TARGETS: tuple[str | float, ...] = ("uppercase", 1.5, 2.0, 3.0)
"""What a calibrated Δ is to match: the Influence of upper case, or a multiple of the plain one."""
_LOWEST_DELTA, _HIGHEST_DELTA = -8.0, 8.0


def _calibrated(
    model: Any, tokenizer: Any, prompts: Sequence[Any], end_tokens: Sequence[int]
) -> list[dict[str, Any]]:
    """Find the Δ of every prompt for every target; null where no Δ in the range meets it."""
    from guide_ext import integration
    from guide_ext.calibration.search import CalibrationError

    results: list[dict[str, Any]] = [{"deltas": {}} for _ in prompts]
    for target in TARGETS:
        # One by one, because a prompt that misses its target must not cost the others theirs.
        for result, prompt, count in zip(results, prompts, end_tokens, strict=True):
            try:
                found = integration.calibrate(
                    model,
                    tokenizer,
                    [prompt],
                    target=target,
                    last_tokens=count,
                    min_delta=_LOWEST_DELTA if target == "uppercase" else 0.0,
                    max_delta=_HIGHEST_DELTA,
                    tolerance=0.05,
                )
            except CalibrationError as error:
                result["deltas"][str(target)] = None
                result.setdefault("refused", {})[str(target)] = str(error)
            else:
                result["deltas"][str(target)] = rounded(found.delta)
    return results


CALIBRATED = Measurement("calibrated", _calibrated, of_emphasis=True, most=1)
"""The Δ that calibration proposes for a prompt."""
