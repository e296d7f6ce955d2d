# SPDX-License-Identifier: MIT
"""Measurements: what is read off one forward pass of a prompt, without an answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Read = Callable[[Any, Any, Sequence[int]], list[dict[str, Any]]]
"""From a model, encoded prompts and the number of end tokens of each to what each prompt gives."""


@dataclass(frozen=True)
class Measurement:
    """Something that is measured on a prompt.

    Attributes:
        kind: The kind of the cells that measure it.
        read: Measures it on a batch of prompts; returns plain data for the shard of each.

    """

    kind: str
    read: Read


def _influences(model: Any, inputs: Any, end_tokens: Sequence[int]) -> list[dict[str, Any]]:
    """Measure every form of Influence for every level, averaged over the end of the prompt."""
    from guide_ext import integration  # these load torch, which listing studies does not need
    from guide_ext.influence.forms import FORMS

    results: list[dict[str, Any]] = [{"levels": {}} for _ in end_tokens]
    for form in FORMS:
        measured = integration.influence(model, inputs, form=form)
        for result, count, values in zip(
            results, end_tokens, measured.values[:, :, 0], strict=True
        ):
            end = values[:, -count:].mean(1)
            result["levels"][form] = [_rounded(value) for value in end.tolist()]
    return results


def _rounded(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"Influence must be finite, got {value}: the model computes no numbers")
    return round(value, 7)


INFLUENCE = Measurement("measure", _influences)
"""Influence, rollout and raw attention of the marked part, at the end of the prompt."""
