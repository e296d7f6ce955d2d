# SPDX-License-Identifier: MIT
"""The choice of heads: what is measured, and what it is never measured on."""

import dataclasses
import json
import math

import pytest
import torch

from guide_ext import integration
from guide_ext.cli.options import parse_heads
from guide_ext.integration.likelihood import log_likelihoods
from guide_ext.steering.steering import Steering
from guide_ext.studies.plan import RunSettings, tasks_of
from guide_ext.studies.run import heads
from guide_ext.studies.run.engine import Marks, prompt_of
from guide_ext.studies.run.heads import check_held_out, profile_heads, ways_to_say

NEEDLE = RunSettings(studies=("needle",), documents=1, seed=7)
TEXTS = {"data": "python-docs", "windows": 1, "window": 100, "documents": 3, "seed": 7}


@pytest.fixture(scope="module")
def found():
    return profile_heads(NEEDLE)


def test_the_best_are_kept_and_the_choice_repeats_itself(found):
    gains = {
        (layer, head): gain
        for layer, row in enumerate(found.gains)
        for head, gain in enumerate(row)
    }
    assert len(gains) == 16
    assert found.heads == tuple(sorted(gains, key=lambda place: (-gains[place], place))[:2])
    more = profile_heads(NEEDLE, keep=16)
    assert dataclasses.replace(more, heads=more.heads[:2]) == found
    assert sorted(more.heads) == sorted(gains)
    other = profile_heads(RunSettings(studies=("needle",), documents=1, seed=8))
    assert other.gains != found.gains


def test_gains_are_means_over_documents_of_each_head_alone(found):
    model, tokenizer = integration.load_embedded()
    rows = heads._rows(tasks_of(NEEDLE)[0], NEEDLE, tokenizer, pytest.fail)
    (layer, head), gains = found.heads[-1], []
    for row in rows:
        prompt = prompt_of(NEEDLE, tokenizer, heads._cell(row), Marks.EMPHASIS)
        plain, steered = (
            log_likelihoods(model, tokenizer, prompt, ways_to_say(row), [steering])[0]
            for steering in (Steering.guide(0.0), Steering.guide(2.0, heads={layer: [head]}))
        )
        gains.append(steered - plain)
    assert found.gains[layer][head] == pytest.approx(math.fsum(gains) / len(rows), abs=1e-3)


def test_the_one_head_that_acts_is_found(tmp_path):
    """In a model all of whose heads but one are cut off, no other head can gain or lose."""
    model, tokenizer = integration.load_embedded()
    layer, head = 2, 1
    width = model.config.head_dim
    with torch.no_grad():
        for index, block in enumerate(model.model.layers):
            weight = block.self_attn.o_proj.weight
            kept = weight[:, head * width : (head + 1) * width].clone()
            weight.zero_()
            if index == layer:
                weight[:, head * width : (head + 1) * width] = kept
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    settings = RunSettings(studies=("needle",), model=str(tmp_path), dtype="float32", **TEXTS)
    found = profile_heads(settings, keep=16)
    acting = [place for place in found.heads if found.gains[place[0]][place[1]]]
    assert acting == [(layer, head)]
    assert found.gain_everywhere == pytest.approx(found.gains[layer][head], abs=1e-3)


def test_each_document_is_asked_about_once_and_in_all_ways():
    tokenizer = integration.load_embedded()[1]
    settings = RunSettings(studies=("needle",), **{**TEXTS, "documents": 8})
    rows = heads._rows(tasks_of(settings)[0], settings, tokenizer, pytest.fail)
    assert len({row.document for row in rows}) == len(rows) == 8
    ways = [row.variant for row in rows]
    assert {ways.count(way) for way in set(ways)} == {4}
    assert len(set(ways)) == 2
    assert all(row.answer in way for row in rows for way in ways_to_say(row))


def test_several_tasks_and_their_progress():
    told = []
    settings = RunSettings(studies=("needle", "conflict"), **TEXTS)
    found = profile_heads(settings, on_progress=lambda *counts: told.append(counts))
    assert found.documents == 9  # three of each of three tasks
    assert told[0] == (0, 9 * 18)
    assert told[-1] == (9 * 18, 9 * 18)
    assert told == sorted(told)


def test_file(found):
    text = found.to_json()
    facts = json.loads(text)
    assert parse_heads(text) == found.heads
    assert facts["gains"] == [list(row) for row in found.gains]
    assert (facts["model"], facts["seed"], facts["documents"]) == ("embedded", 7, 6)


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        ({"studies": ("json",), **TEXTS}, {}, "one right answer, .* got json"),
        ({}, {"keep": 17}, "keep must be at most the model's 16 heads, got 17"),
        ({}, {"keep": 0}, "keep must be a whole number from 1, got 0"),
        ({}, {"delta": 0.0}, "delta must be a finite number of nats and not 0, got 0.0"),
        ({}, {"delta": math.nan}, "delta must be a finite number"),
    ],
)
def test_bad_arguments(settings, arguments, message):
    settings = {"studies": ("needle",), "documents": 1, "seed": 7, **settings}
    with pytest.raises(ValueError, match=message):
        profile_heads(RunSettings(**settings), **arguments)


def test_heads_are_not_measured_on_what_chose_them(found):
    text = found.to_json()
    with pytest.raises(ValueError, match=r"seed must differ .* got 7"):
        check_held_out(text, NEEDLE)
    assert check_held_out(text, RunSettings(studies=("needle",), seed=42)) == []
    assert check_held_out("[[0, 1]]", NEEDLE) == []  # nothing is known of a list
    other = RunSettings(studies=("needle",), model="x/y", **TEXTS)  # other texts, same seed
    assert check_held_out(text, other) == [
        "the heads were chosen on the model embedded, and this is x/y"
    ]
