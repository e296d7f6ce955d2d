# SPDX-License-Identifier: MIT
"""The record of Influence as it is read: what does not fit is refused; scales and differences."""

import copy
import re

import numpy as np
import pytest

from guide_ext.influence.record import Record, number_text
from guide_ext.report.influence.page import InfluenceReport, influence_html

pytest_plugins = ["influence_record"]


@pytest.mark.parametrize("part", ["runs", "prompt", "groups", "settings", "layers"])
def test_what_is_no_record_is_refused(record, part):
    broken = {name: value for name, value in record.items() if name != part}
    with pytest.raises(ValueError, match=f"{part} of the record must be"):
        InfluenceReport(broken)


@pytest.mark.parametrize("wrong", [{"kind": "guide_ext study tables"}, {"format": 2}])
def test_records_of_another_kind_are_refused(record, wrong):
    with pytest.raises(ValueError, match=r"record must be what .*, format 1, got '"):
        InfluenceReport(record | wrong)
    with pytest.raises(ValueError, match="record must be a JSON object, got list"):
        InfluenceReport([])


def at(record, path, value):
    """Return the record with another value at a path."""
    found = copy.deepcopy(record)
    place = found
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return found


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("runs", 0, "name"), 'plain"><script>', "runs of the record must be 'plain', or 'plain'"),
        (("runs", 1, "name"), "plain", "runs of the record must be"),
        (("runs", 1, "values", 0, 2, 3), "0.5", "values of the guided run must be null or a"),
        (("runs", 1, "values", 0, 2, 3), float("nan"), "null or a finite number from 0, got nan"),
        (("runs", 1, "values", 0, 2, 3), -0.1, "null or a finite number from 0, got -0.1"),
        (("runs", 1, "values", 0, 2, 3), 10**400, "null or a finite number from 0, got 1000"),
        (("runs", 1, "delta"), "2", "delta of the guided run must be a finite number, got '2'"),
        (("runs", 0, "answer"), None, "answer of the plain run must be a text, got None"),
        (("runs", 0, "summary", 0, "answer"), "1", "answer of the plain run must be a finite"),
        (("runs", 0, "summary", 0, "group"), "x", "summary of the plain run must be of the groups"),
        (("runs", 0, "tokens", 1, "text"), 3, "text of the token 1 of the plain run must be"),
        (("prompt", "tokens", 2, "special"), "no", "special of the token 2 of the prompt must be"),
        (("prompt", "tokens"), [], "tokens of the prompt must be at least one"),
        (("prompt", "nats", 0), "1", "each of nats of the prompt must be a finite number"),
        (("prompt", "nats"), [1.0], "nats of the prompt must be a list of"),
        (("prompt", "groups", "rule"), [True], "group 'rule' of the prompt must be a list of"),
        (("prompt", "groups", "rule", 1), "x", "group 'rule' of the prompt must be true or false"),
        (("layers",), "4", "layers of the record must be a whole number from 1, got '4'"),
        (("layers",), 5, "values of a group of the plain run must be a list of 6 values, got 5"),
        (("groups",), ["rule", "rule"], "groups of the record must be different ones"),
        (("groups",), "rule", "groups of the record must be texts, got 'rule'"),
        (("settings", "end_tokens"), 0, "end_tokens of the settings must be a whole number from 1"),
        (("settings", "form"), ["paper"], "form of the settings must be a text"),
        (("versions", "guide_ext"), 1, "guide_ext of the versions must be a text, got 1"),
        (("model",), {}, "model of the record must be a text, got {}"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(record, path, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        InfluenceReport(at(record, path, value))


def test_values_that_do_not_fit_are_refused(record):
    broken = copy.deepcopy(record)
    broken["runs"][1]["values"][0].pop()
    with pytest.raises(ValueError, match="of the guided run"):
        influence_html(broken)


def test_the_scale_leaves_out_the_group_itself(record):
    read = Record.read(record)
    for group in range(2):
        inside = [value for run in read.runs for value in run.values[group][0] if value]
        assert max(inside) == 1.0
        assert 0 < read.top(group) <= 1.0
        assert all(
            value <= read.top(group)
            for run in read.runs
            for level in run.values[group]
            for token, value in enumerate(level)
            if value is not None and not read.is_member(group, token)
        )
        for level in range(read.layers + 1):
            shown = [
                value
                for run in read.runs
                for token, value in enumerate(run.values[group][level])
                if value is not None and not read.is_member(group, token)
            ]
            top = read.top(group, level)
            assert max(shown) <= top <= read.top(group) or (level, top) == (0, 1.0)
            assert max(shown) > 0.4 * top or level == 0  # what is shown fills its scale


@pytest.mark.parametrize("same", [0, 2, None])
def test_guided_minus_plain(record, same):
    if same is not None:
        record = at(record, ("runs", 1, "tokens", same, "text"), "another")
    read = Record.read(record)
    plain, guided = (np.array(run["values"], dtype=float) for run in record["runs"])
    length = min(plain.shape[2], guided.shape[2])
    end = length if same is None else read.prompt_tokens + same
    assert read.compared_tokens == end
    for group in range(2):
        for level in range(read.layers + 1):
            expected = guided[group, level, :end] - plain[group, level, :end]
            found = [read.difference(group, level, token) for token in range(read.longest)]
            np.testing.assert_array_equal(np.array(found[:end], dtype=float), expected)
            assert found[end:] == [None] * (read.longest - end)
            outside = [not read.is_member(group, token) for token in range(end)]
            largest = round(np.nanmax(np.abs(expected[outside])), 6)
            assert largest <= read.difference_top(group, level)
            assert read.difference_top(group, level) <= read.difference_top(group) or not largest


def test_small_numbers_do_not_vanish():
    assert [number_text(value) for value in (0.0, 0.00004, 0.000999, 0.001, 0.5)] == [
        "0.0000", "0.00004", "0.000999", "0.0010", "0.5000",
    ]  # fmt: skip
    assert [number_text(value, is_signed=True) for value in (0.0, 0.02, -0.00002)] == [
        "0.0000", "+0.0200", "−0.00002",
    ]  # fmt: skip
