# SPDX-License-Identifier: MIT
"""Methods of the field beside plain code that does what their papers say, with whole matrices."""

import doctest
from pathlib import Path

import models
import plain_methods
import pytest
import torch
from plain_methods import scaled

import guide_ext.integration as guide
from guide_ext.steering.steering import Steering

TEXT = "Once the baker hides. <!!->The secret word of Tom is banana.<-!!> The cat <!->eats<-!>."
OTHER = "<!!!->Summarize in French<-!!!>: the dog sleeps."
HEADS = {0: [1], 2: [0, 3]}


@pytest.fixture(scope="module")
def loaded():
    return guide.load_embedded()


def encoded(loaded, text, steering):
    inputs = guide.encode(*loaded, guide.as_prompt(loaded[1], text), steering=steering)
    marked = guide.encode(*loaded, guide.as_prompt(loaded[1], text), delta=1.0)["guide_bias"] != 0
    return inputs, marked


def greedy(model, inputs, **options):
    return models.generation(model, inputs, max_new_tokens=6, **options)


def compared(loaded, text, steering, edit):
    """Compare six steps of generation with plain code, and with a model that is not steered."""
    model, _ = loaded
    inputs, marked = encoded(loaded, text, steering)
    found = greedy(model, inputs)
    plain = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with plain_methods.edited(model, weights=edit(marked)):
        wanted = greedy(model, plain, use_cache=False)
    models.assert_same_generation(found, wanted)
    unsteered = greedy(model, plain)
    assert (found.logits[0] - unsteered.logits[0]).abs().max() > 1e-2


@pytest.mark.parametrize("multiplier", [5.0, 0.2])
@pytest.mark.parametrize("text", [TEXT, OTHER])
def test_instaboost(loaded, text, multiplier):
    """Weights of marked tokens times M, in all heads and at all steps, then rows that sum to 1."""
    steering = Steering.instaboost(multiplier)
    compared(loaded, text, steering, lambda marked: scaled(marked, multiplier))


@pytest.mark.parametrize("heads", [None, HEADS])
@pytest.mark.parametrize("alpha", [0.01, 2.0])
def test_pasta(loaded, alpha, heads):
    """Weights of the other tokens of the prompt times α in chosen heads; new tokens keep theirs."""
    steering = Steering.pasta(alpha, heads)
    compared(loaded, TEXT, steering, lambda marked: scaled(~marked, alpha, heads))


def test_pasta_in_profiled_heads(loaded):
    example = guide.Example(guide.as_prompt(loaded[1], OTHER), ("Le chien dort.",))
    profile = guide.profile_heads(*loaded, [example])
    steering = profile.pasta(keep=3)
    heads = {layer: list(own) for layer, own in steering.heads_by_layer}
    assert {(layer, head) for layer, own in heads.items() for head in own} == set(profile.best(3))
    compared(loaded, OTHER, steering, lambda marked: scaled(~marked, 0.01, heads))
    assert profile.pasta(0.5).on_others == Steering.pasta(0.5).on_others


def test_guide_is_instaboost_by_another_name(loaded):
    """One strength for all marks: adding Δ and multiplying by e^Δ are the same bits."""
    text = "<!!->Summarize in French<-!!>: the dog sleeps."
    found = [
        encoded(loaded, text, steering)[0]["guide_bias"]
        for steering in (Steering.guide(1.5), Steering.instaboost(torch.tensor(1.5).exp().item()))
    ]
    torch.testing.assert_close(*found)


def test_the_page_runs():
    page = Path(__file__).parents[2] / "docs" / "methods.md"
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, attempted = doctest.testfile(
        str(page), module_relative=False, optionflags=flags, encoding="utf-8"
    )
    assert failed == 0
    assert attempted > 10
