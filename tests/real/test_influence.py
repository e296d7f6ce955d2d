# SPDX-License-Identifier: MIT
"""Influence on SmolLM2, of prompts and while generating, beside eager attention in float64."""

from __future__ import annotations

import pytest
import torch
from influence_reference import reference_heads, reference_levels
from marked_prose import ENDLESS, by_hand, draw, whole
from tolerance import INFLUENCE

from guide_ext import integration as guide
from guide_ext.influence.forms import FORMS

pytest.importorskip("pydoc_data.topics")

GROUPS = ["rule", "place"]
STEPS = 8


@pytest.fixture(scope="module")
def proses(smollm2, seed):
    """A group that steers, one that does not, and a mark of no group; then other marks."""
    rule, place = {"delta": 2.0, "group": "rule"}, {"group": "place"}
    rows = ((110, [rule, place, {"delta": -1.0}]), (70, [place, rule]))
    return [draw(smollm2[1], tokens, kinds, seed) for tokens, kinds in rows]


@pytest.fixture(scope="module")
def encoded(smollm2, proses):
    return guide.encode(*smollm2, [prose.chat for prose in proses])


@pytest.fixture(scope="module")
def inputs(smollm2, proses):
    return by_hand(smollm2[1], proses, GROUPS)


def assert_close(found, wanted, mask):
    """Compare tokens that are not padding, at every layer."""
    assert found.shape == wanted.shape
    tokens = mask.bool()[:, None, None].expand_as(wanted)
    difference = (found.double() - wanted)[tokens].abs().max().item()
    assert difference <= INFLUENCE, f"{difference:.2e}"


def reference(eager, text, inputs, form="paper", *, steered=True):
    prompt = {name: text[name] for name in ("input_ids", "attention_mask")}
    bias = text["guide_bias"] if steered else None
    return reference_levels(eager, "llama", prompt, inputs["guide_seed"], form=form, bias=bias)


def test_encoded_as_by_hand(encoded, inputs):
    assert encoded.groups == tuple(GROUPS)
    assert encoded["attention_mask"][1, 0] == 0  # padding
    assert inputs.keys() == encoded.keys()
    for name, tensor in inputs.items():
        assert torch.equal(encoded[name].to(tensor.dtype), tensor), name


@pytest.mark.parametrize("form", FORMS)
def test_of_prompts(smollm2, eager, encoded, inputs, form):
    found = guide.influence(smollm2[0], encoded, form=form)
    assert found.values.shape[1] == 31
    wanted = reference(eager, inputs, inputs, form)
    assert_close(found.values, wanted, inputs["attention_mask"])
    end = wanted[:, -1, :, -10:].mean(-1)
    assert (found.at_end_of_prompt() - end).abs().max() <= INFLUENCE


def test_of_prompts_whose_marks_do_not_steer(smollm2, eager, encoded, inputs):
    plain = {name: tensor for name, tensor in encoded.items() if name != "guide_bias"}
    found = guide.influence(smollm2[0], plain)
    wanted = reference(eager, inputs, inputs, steered=False)
    assert_close(found.values, wanted, inputs["attention_mask"])
    guided = guide.influence(smollm2[0], encoded)
    last = found.at_end_of_prompt() - guided.at_end_of_prompt()
    assert last[:, 0].abs().min() > 100 * INFLUENCE  # Δ shows in both rows


def test_of_every_head(smollm2, eager, encoded, inputs):
    found = guide.influence(smollm2[0], encoded, form="raw", by_head=True).by_head
    prompt = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    wanted = reference_heads(eager, "llama", prompt, inputs["guide_seed"], inputs["guide_bias"])
    for row, mask in enumerate(inputs["attention_mask"].bool()):
        difference = (found[row].double() - wanted[row])[..., mask].abs().max().item()
        assert difference <= INFLUENCE, f"{difference:.2e}"


@pytest.mark.parametrize(
    ("form", "way"),
    [("paper", {}), ("exact", {"cache_implementation": "static"})],
    ids=["dynamic", "static"],
)
def test_while_generating(smollm2, eager, encoded, inputs, form, way):
    """Equal to one pass over the whole text, and to eager attention over it."""
    model = smollm2[0]
    sequences, found = guide.generate_with_influence(
        model, encoded, form=form, max_new_tokens=STEPS, do_sample=False, **ENDLESS, **way
    )
    text = whole(inputs, sequences[:, :-1])  # the last token is written and never read
    assert found.values.shape[3] == inputs["input_ids"].shape[1] + STEPS - 1
    assert_close(found.values, reference(eager, text, inputs, form), text["attention_mask"])
    longer = torch.nn.functional.pad(inputs["guide_seed"], (0, STEPS - 1))
    again = guide.influence(model, {**text, "guide_seed": longer}, form=form)
    assert_close(found.values, again.values.double(), text["attention_mask"])
    plain = {name: tensor for name, tensor in encoded.items() if name != "guide_seed"}
    unmeasured = model.generate(**plain, max_new_tokens=STEPS, do_sample=False, **ENDLESS, **way)
    assert torch.equal(unmeasured, sequences)


def test_bfloat16_measures_the_same_but_for_rounding(smollm2, encoded):
    """The first token's residual stream is hundreds of times as long as any other here."""
    model, _ = guide.load("smollm2", device="cpu", dtype="bfloat16")
    wanted, found = (guide.influence(one, encoded).values.double() for one in (smollm2[0], model))
    tokens = encoded["attention_mask"].bool()[:, None, None].expand_as(wanted)
    assert (found - wanted)[tokens].abs().max() < 0.02
    assert wanted[tokens].max() > 0.2
