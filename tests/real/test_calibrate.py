# SPDX-License-Identifier: MIT
"""A Δ that was calibrated on SmolLM2, measured anew by eager attention with it in the mask."""

from __future__ import annotations

import pytest
from influence_reference import reference_levels
from marked_prose import Mark, Prose, by_hand

from guide_ext import integration as guide

RULE = "Answer in one word"
TEXTS = (
    f"{RULE}: which animal sleeps in the barn? The old cat sleeps there, and the dog outside.",
    f"The river is wide in spring and narrow in summer. {RULE}, when is it wide?",
)
END = 10


def chats(texts):
    marked = (text.replace(RULE, f"<!!->{RULE}<-!!>") for text in texts)
    return [[{"role": "user", "content": text}] for text in marked]


def measured(eager, tokenizer, texts, delta, rule=RULE, last_tokens=END):
    """Return the Influence of the rule at the end of each text, one by one and without padding."""
    found = []
    for text in texts:
        start = text.index(rule)
        mark = Mark(start, start + len(rule), delta, "rule")
        inputs = by_hand(tokenizer, [Prose(text, (mark,))], ["rule"])
        seed, bias = inputs.pop("guide_seed"), inputs.pop("guide_bias")
        levels = reference_levels(eager, "llama", inputs, seed, bias=bias)
        found.append(levels[0, -1, 0, -last_tokens:].mean().item())
    return found


@pytest.fixture
def influence(smollm2, eager):
    return lambda texts, delta, **how: measured(eager, smollm2[1], texts, delta, **how)


def mean(values):
    return sum(values) / len(values)


def test_a_factor(smollm2, influence):
    found = guide.calibrate(*smollm2, chats(TEXTS[:1]), target=1.5)
    (target,) = (1.5 * value for value in influence(TEXTS[:1], 0.0))
    assert found.target == pytest.approx(target, rel=1e-4)
    (below,), (above,) = (influence(TEXTS[:1], found.delta + shift) for shift in (-0.01, 0.01))
    assert below < target < above
    assert found.delta > 0.1


def test_upper_case(smollm2, influence):
    found = guide.calibrate(*smollm2, chats(TEXTS[:1]), min_delta=-2.0)
    louder = [TEXTS[0].replace(RULE, RULE.upper())]
    (target,) = influence(louder, 0.0, rule=RULE.upper())
    assert found.target == pytest.approx(target, rel=1e-4)
    (below,), (above,) = (influence(TEXTS[:1], found.delta + shift) for shift in (-0.01, 0.01))
    assert below < target < above


def test_one_delta_for_two_prompts_and_one_for_each(smollm2, influence):
    found = guide.calibrate(*smollm2, chats(TEXTS), target=1.5, last_tokens=4)
    targets = [1.5 * value for value in influence(TEXTS, 0.0, last_tokens=4)]
    assert found.target == pytest.approx(mean(targets), rel=1e-4)
    below, above = (
        mean(influence(TEXTS, found.delta + shift, last_tokens=4)) for shift in (-0.01, 0.01)
    )
    assert below < mean(targets) < above
    for text, delta, target in zip(TEXTS, found.per_prompt, targets, strict=True):
        (below,), (above,) = (
            influence([text], delta + shift, last_tokens=4) for shift in (-0.01, 0.01)
        )
        assert below < target < above
