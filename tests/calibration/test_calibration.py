# SPDX-License-Identifier: MIT
"""Calibration of Δ for several prompts, on curves that are known, and files from anywhere."""

import dataclasses
import json
import math

import numpy as np
import pytest
from calibration_curves import odds_curve
from hypothesis import given, settings
from hypothesis import strategies as st

from guide_ext import Calibration
from guide_ext.calibration.calibration import find_delta, solve
from guide_ext.calibration.search import Search

PROPERTY = settings(derandomize=True, deadline=None, max_examples=200)


class TestSolve:
    @staticmethod
    def measure_of(curves, calls=None):
        def measure(deltas):
            if calls is not None:
                calls.append(dict(deltas))
            return {row: curves[row](delta) for row, delta in deltas.items()}

        return measure

    def test_one_prompt_is_the_search_alone(self):
        curve = odds_curve(0.1)
        found, alone = solve(self.measure_of([curve]), [0.2]), find_delta(curve, 0.2)
        assert (found.delta, found.interval, found.curve) == (
            alone.delta, alone.bracket, alone.curve,
        )  # fmt: skip
        assert found.per_prompt == (found.delta,)
        assert found.passes == len(found.curve)

    @PROPERTY
    @given(st.lists(st.tuples(st.floats(0.01, 0.3), st.floats(0.1, 4.0)), min_size=2, max_size=6))
    def test_several_prompts(self, drawn):
        curves = [odds_curve(start) for start, _ in drawn]
        targets = [curve(delta) for curve, (_, delta) in zip(curves, drawn, strict=True)]
        calls = []
        found = solve(self.measure_of(curves, calls), targets)
        for delta, (_, wanted) in zip(found.per_prompt, drawn, strict=True):
            assert abs(delta - wanted) <= 0.011

        def mean(delta):
            return math.fsum(curve(delta) for curve in curves) / len(curves)

        assert mean(found.delta - 0.011) <= found.target <= mean(found.delta + 0.011)
        assert found.interval[0] <= found.delta <= found.interval[1]
        assert found.passes == len(calls)
        assert found == solve(self.measure_of(curves), targets)

    def test_the_interval_spans_prompts_that_differ(self):
        curves = [odds_curve(0.1)] * 6
        alike = solve(self.measure_of(curves), [curves[0](0.5)] * 6)
        differing = solve(
            self.measure_of(curves), [curves[0](d) for d in (0.1, 0.2, 0.4, 0.6, 0.8, 0.9)]
        )
        assert alike.interval[1] - alike.interval[0] <= 0.02
        assert differing.interval[1] - differing.interval[0] > 0.2

    def test_the_interval_reaches_beyond_what_was_measured_and_not_beyond_the_range(self):
        curves = [odds_curve(0.02)] * 2
        targets = [curves[0](0.05), curves[0](1.5)]
        found = solve(self.measure_of(curves), targets)
        assert found.curve[-1][0] == 1.0
        assert found.interval == pytest.approx((0.05, 1.5), abs=0.02)
        narrow = solve(self.measure_of(curves), targets, Search(max_delta=1.2))
        assert narrow.interval[1] == 1.2

    def test_a_prompt_that_has_none(self):
        curves = [odds_curve(0.1), odds_curve(0.1), lambda delta: 0.1]
        found = solve(self.measure_of(curves), [0.2, 0.2, 0.11])
        assert found.per_prompt[2] is None
        assert None not in found.per_prompt[:2]

    def test_finished_prompts_are_not_measured_on(self):
        calls = []
        curves = [odds_curve(0.1), odds_curve(0.2), odds_curve(0.1)]
        solve(self.measure_of(curves, calls), [0.1, 0.5, 0.3])
        assert any(set(call) < {0, 1, 2} for call in calls)
        asked = [point for call in calls for point in call.items()]
        assert len(asked) == len(set(asked))  # what the mean needed is not measured again

    @pytest.mark.parametrize("targets", [[], [0.1, math.nan]])
    def test_targets(self, targets):
        with pytest.raises(ValueError, match="target"):
            solve(self.measure_of([odds_curve(0.1)] * 2), targets)

    def test_answers_for_other_prompts(self):
        with pytest.raises(ValueError, match=r"of the prompts \[0, 1\], got \[0\]"):
            solve(lambda deltas: {0: 0.1}, [0.2, 0.2])

    def test_nan_names_the_prompt(self):
        with pytest.raises(ValueError, match="got nan for prompt 1 at Δ = 0"):
            solve(lambda deltas: {0: 0.1, 1: math.nan}, [0.2, 0.2])


GOOD = Calibration(
    0.5, 0.2, (0.4, 0.6), ((0.0, 0.1), (0.5, 0.2), (1.0, 0.3)), (0.5, None), 7, 1.5, "exact", 4, "m"
)


class TestFiles:
    def test_there_and_back(self, tmp_path):
        file = tmp_path / "calibration.json"
        GOOD.save(file)
        assert Calibration.load(file) == GOOD
        assert Calibration.load(str(file)).steering().delta_mid == 0.5

    @PROPERTY
    @given(st.floats(-8, 8), st.floats(0, 1), st.text(max_size=20))
    def test_any_values_survive(self, delta, target, model):
        found = dataclasses.replace(
            GOOD, delta=delta, interval=(delta, delta), target=target, model=model
        )
        assert Calibration.from_json(found.to_json()) == found

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("version", 2),
            ("version", True),
            ("version", "1"),
            ("format", "other"),
            ("delta", "0.5"),
            ("delta", True),
            ("delta", None),
            ("delta", [0.5]),
            ("delta", 0.7),
            ("delta", 10**400),
            ("target", 1.5),
            ("target", -0.1),
            ("interval", [0.4]),
            ("interval", [0.6, 0.4]),
            ("interval", "ab"),
            ("interval", {"0": 0.4, "1": 0.6}),
            ("curve", []),
            ("curve", [[0.0, 0.1], [0.0, 0.2]]),
            ("curve", [[1.0, 0.1], [0.0, 0.2]]),
            ("curve", [[0.0, 1.1]]),
            ("curve", [[0.0]]),
            ("curve", [0.0]),
            ("curve", 3),
            ("per_prompt", []),
            ("per_prompt", ["x"]),
            ("per_prompt", None),
            ("passes", 0),
            ("passes", 1.5),
            ("passes", True),
            ("emphasis", "shouting"),
            ("emphasis", 0),
            ("emphasis", None),
            ("form", "other"),
            ("form", ["paper"]),
            ("last_tokens", -1),
            ("model", 3),
            ("unknown", 1),
        ],
    )
    def test_hostile_values(self, field, value):
        record = json.loads(GOOD.to_json()) | {field: value}
        with pytest.raises(ValueError, match=r"alibration|form must be one of"):
            Calibration.from_json(json.dumps(record))

    @pytest.mark.parametrize("field", json.loads(GOOD.to_json()))
    def test_missing_fields(self, field):
        record = json.loads(GOOD.to_json())
        del record[field]
        with pytest.raises(ValueError, match="a calibration must"):
            Calibration.from_json(json.dumps(record))

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "null", "3", '"x"', "[" * 100_000, "{} {}", '{"delta": NaN}']
    )
    def test_texts_that_are_none(self, text):
        with pytest.raises(ValueError, match="a calibration must be"):
            Calibration.from_json(text)

    @pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "1e999"])
    def test_numbers_that_are_none(self, constant):
        text = GOOD.to_json().replace('"delta": 0.5', f'"delta": {constant}')
        with pytest.raises(ValueError, match="alibration"):
            Calibration.from_json(text)

    @PROPERTY
    @given(st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=6,
    ), st.sampled_from(sorted(json.loads(GOOD.to_json()))))  # fmt: skip
    def test_anything_anywhere_is_taken_or_refused_cleanly(self, value, field):
        record = json.loads(GOOD.to_json()) | {field: value}
        try:
            Calibration.from_json(json.dumps(record))
        except ValueError as caught:
            message = str(caught)
        else:
            return
        assert "alibration" in message or "form must be" in message

    @pytest.mark.parametrize(
        ("raw", "expected"),
        [(b"\xff\xfe", "utf-8"), (b" " * (1 << 20) + b"{}", "at most 1048576 bytes, got more")],
    )
    def test_files_that_are_none_are_named(self, tmp_path, raw, expected):
        file = tmp_path / "bad.json"
        file.write_bytes(raw)
        with pytest.raises(ValueError, match=rf"bad\.json: .*{expected}"):
            Calibration.load(file)

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            Calibration.load(tmp_path / "none.json")


class TestWrongObjects:
    """A sentence that names the argument, never an error from inside."""

    @pytest.mark.parametrize("measure", [None, 3, "x", [0.1]])
    def test_measure(self, measure):
        for search in (lambda: find_delta(measure, 0.2), lambda: solve(measure, [0.2])):
            with pytest.raises(TypeError, match="measure must be a function, got"):
                search()

    @pytest.mark.parametrize("search", [3, "x", {"max_delta": 2.0}, True])
    def test_search(self, search):
        for run in (
            lambda: find_delta(lambda delta: 0.1, 0.2, search),
            lambda: solve(lambda deltas: dict.fromkeys(deltas, 0.1), [0.2], search),
        ):
            with pytest.raises(TypeError, match="search must be a Search or None, got"):
                run()

    @pytest.mark.parametrize("targets", [None, 0.2, "0.2", {0.2}])
    def test_targets(self, targets):
        with pytest.raises(TypeError, match="targets must be a list of Influence, got"):
            solve(lambda deltas: dict.fromkeys(deltas, 0.1), targets)

    @pytest.mark.parametrize("measured", [None, 0.2, [0.2], "x"])
    def test_what_measure_returns(self, measured):
        with pytest.raises(ValueError, match="measure must return Influence by prompt"):
            solve(lambda deltas: measured, [0.2])

    @pytest.mark.parametrize("value", [None, 1, 0.5, [1], (), "ab", np.zeros(2)], ids=repr)
    @pytest.mark.parametrize("field", ["interval", "curve", "per_prompt"])
    def test_fields(self, field, value):
        if field == "per_prompt" and isinstance(value, list):
            return  # will do
        good = {
            "delta": 0.5, "target": 0.2, "interval": (0.49, 0.5), "passes": 6,
            "curve": ((0.0, 0.1), (0.5, 0.2)), "per_prompt": (0.5,),
        }  # fmt: skip
        with pytest.raises(ValueError, match=f"Calibration: {field} must "):
            Calibration(**{**good, field: value})

    @pytest.mark.parametrize("text", [None, 3, b"{}", {}])
    def test_text(self, text):
        with pytest.raises(TypeError, match="text must be a str, got"):
            Calibration.from_json(text)
