# SPDX-License-Identifier: MIT
"""The choice of a token beside plain code: temperature, then top_p, then noise."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from guide_ext.integration.answer_rows import Row, _Choice, can_be_compiled
from guide_ext.marking.tokens import Encoding
from guide_ext.steering.steering import Steering

PROMPT = Encoding([1], [(0, 1)], "a", (), ())


def row(temperature, top_p, seed):
    return Row(
        PROMPT, Steering.guide(0.0), 9, temperature, top_p, seed, (), None,
        push=lambda text, likely: None, end=lambda how: None,
    )  # fmt: skip


def nucleus(logits, temperature, top_p):
    """The fewest likeliest tokens whose probabilities, at a temperature, reach top_p."""
    weights = np.exp(logits / temperature - np.max(logits / temperature))
    probs = weights / weights.sum()
    order = np.argsort(-probs)
    return order[: int(np.searchsorted(np.cumsum(probs[order]), top_p)) + 1], probs


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(0.5, 0.95), (1.0, 0.3), (2.5, 0.7), (2.5, 0.95)]
)
def test_what_is_drawn(temperature, top_p):
    logits = np.random.default_rng(3).normal(size=12) * 2
    allowed, probs = nucleus(logits, temperature, top_p)
    scores = torch.tensor(logits, dtype=torch.float32)[None]
    rows = [row(temperature, top_p, seed) for seed in range(4000)]
    chosen = _Choice(rows)(torch.ones(len(rows), 1, dtype=torch.long), scores.expand(len(rows), -1))
    counts = np.bincount(chosen.argmax(-1).numpy(), minlength=12) / len(rows)
    assert counts[[t for t in range(12) if t not in allowed]].sum() == 0
    wanted = probs[allowed] / probs[allowed].sum()
    # Four standard deviations of a share of 4000.
    assert np.abs(counts[allowed] - wanted).max() < 4 * np.sqrt(0.25 / 4000)


def test_greedy_rows_beside_sampled_ones():
    scores = torch.randn(3, 12, generator=torch.Generator().manual_seed(1))
    rows = [row(0.0, 1.0, 0), row(5.0, 1.0, 1), row(0.0, 0.2, 2)]
    chosen = _Choice(rows)(torch.ones(3, 1, dtype=torch.long), scores)
    assert torch.equal(chosen[[0, 2]], scores[[0, 2]])
    assert not torch.equal(chosen[1], scores[1])


@pytest.mark.parametrize(
    ("steering", "can"),
    [
        (Steering.guide(2.0), True),
        (Steering.guide(2.0, layers=[0]), False),
        (Steering.guide(2.0, heads={0: [1]}), False),
        (Steering.by_head([[1.0]]), False),
    ],
)
def test_single_layers_and_heads_are_not_compiled(steering, can):
    one = replace(row(0.0, 1.0, 0), steering=steering)
    assert can_be_compiled(SimpleNamespace(slots=64), one) is can
    assert not can_be_compiled(SimpleNamespace(slots=9), one)
