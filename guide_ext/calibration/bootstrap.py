# SPDX-License-Identifier: MIT
"""How far a calibrated Δ would move if other prompts had been drawn: the bootstrap."""

from __future__ import annotations

from typing import Any

import numpy as np

from guide_ext.calibration.search import Search, log_odds

# What a 95 % interval cuts off on each side.
_TAIL = 0.025
_RESAMPLES, _SEED = 2000, 0


def spread(deltas: Any, curves: Any, targets: Any, search: Search) -> tuple[float, float]:
    """Return the 95 % interval of the pooled Δ by bootstrap over the prompts.

    Nothing more is measured. The curve of each resample is interpolated between the measured
    points, and extrapolated from the outer two, in log-odds.

    Args:
        deltas: Measured Δ, nats, rising, ``[points]``.
        curves: Influence of each prompt at each Δ, ``[prompts, points]``.
        targets: Influence to reach, ``[prompts]``.
        search: Its range of Δ; what lies outside is moved to the nearer end.

    Returns:
        Lowest and highest Δ, nats.

    Example:
        >>> deltas = np.array([0.0, 1.0, 2.0])
        >>> curve = [1 / (1 + 9 * np.exp(-deltas))]
        >>> spread(deltas, np.array(curve * 2), np.array([0.2, 0.2]), Search())
        (0.81..., 0.81...)

    """
    prompts = len(targets)
    draws = np.random.default_rng(_SEED).multinomial(
        prompts, np.full(prompts, 1 / prompts), size=_RESAMPLES
    )
    odds = np.vectorize(log_odds)
    # Rounding may make a curve fall a little; np.interp needs one that never falls.
    means = np.maximum.accumulate(odds(draws @ curves / prompts), axis=1)
    goals = odds(draws @ targets / prompts)
    found = [_read_off(goal, mean, deltas) for goal, mean in zip(goals, means, strict=True)]
    inside = np.clip(found, search.min_delta, search.max_delta)
    low, high = np.quantile(inside, [_TAIL, 1 - _TAIL])
    return float(low), float(high)


def _read_off(goal: float, curve: Any, deltas: Any) -> float:
    """Return the Δ at which a rising curve reaches a goal; both in log-odds."""
    if len(deltas) == 1 or curve[0] <= goal <= curve[-1]:
        return float(np.interp(goal, curve, deltas))
    a, b = (0, 1) if goal < curve[0] else (-2, -1)
    if curve[a] == curve[b]:
        return -np.inf if goal < curve[0] else np.inf
    share = (goal - curve[a]) / (curve[b] - curve[a])
    return float(deltas[a] + share * (deltas[b] - deltas[a]))
