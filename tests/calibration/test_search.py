# SPDX-License-Identifier: MIT
"""The search for Δ, on curves that are known."""

import math

import pytest
from calibration_curves import odds_curve
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from guide_ext import CalibrationError
from guide_ext.calibration.calibration import find_delta
from guide_ext.calibration.search import Search, crossings

PROPERTY = settings(derandomize=True, deadline=None, max_examples=200)


def counted(measure):
    asked = []

    def wrapped(delta):
        asked.append(delta)
        return measure(delta)

    return wrapped, asked


class TestSearch:
    @PROPERTY
    @given(
        start=st.floats(0.001, 0.5),
        slope=st.floats(0.2, 2.0),
        delta=st.floats(0.02, 7.9),
        power=st.floats(0.5, 1.5),
        tolerance=st.sampled_from([0.1, 0.01, 1e-4]),
    )
    def test_finds_the_crossing_of_any_rising_curve(self, start, slope, delta, power, tolerance):
        line = odds_curve(start, slope)

        def curve(at):
            return line(8 * (at / 8) ** power)

        assume(curve(delta) < 0.99)  # beyond it rounding counts
        measure, asked = counted(curve)
        found = find_delta(measure, curve(delta), Search(tolerance=tolerance))
        low, high = found.bracket
        assert low - 1e-9 <= delta <= high + 1e-9
        assert low <= found.delta <= high
        assert high - low <= tolerance + 5e-3  # the tolerance, and the noise of the search
        assert found.curve == tuple(sorted((at, curve(at)) for at in asked))
        assert len(asked) == len(set(asked)) < 40

    def test_a_handful_of_passes(self):
        for start in (0.01, 0.1, 0.3):
            for delta in (0.1, 0.37, 0.8, 1.7, 3.3):
                measure, asked = counted(odds_curve(start))
                find_delta(measure, odds_curve(start)(delta))
                assert len(asked) <= 7

    @PROPERTY
    @given(delta=st.floats(-7.9, -0.02))
    def test_negative(self, delta):
        curve = odds_curve(0.3)
        found = find_delta(curve, curve(delta), Search(min_delta=-8.0))
        assert found.bracket[0] - 1e-9 <= delta <= found.bracket[1] + 1e-9
        assert abs(found.delta - delta) <= 0.011

    def test_the_first_step_interpolates_in_log_odds(self):
        measure, asked = counted(odds_curve(0.1))
        find_delta(measure, odds_curve(0.1)(0.3))
        assert asked[:2] == [0.0, 1.0]
        assert asked[2] == pytest.approx(0.3, abs=1e-6)

    def test_a_step_is_bisected(self):
        found = find_delta(lambda delta: 0.1 if delta < 1.234 else 0.9, 0.5)
        assert found.bracket[0] <= 1.234 <= found.bracket[1]
        assert found.bracket[1] - found.bracket[0] <= 0.02

    def test_influence_zero_and_one_at_the_ends(self):
        found = find_delta(lambda delta: min(delta / 4, 1.0), 0.3)
        assert abs(found.delta - 1.2) <= 0.01

    def test_the_target_at_zero(self):
        found = find_delta(odds_curve(0.1), 0.1)
        assert (found.delta, found.bracket, len(found.curve)) == (0.0, (0.0, 0.0), 1)

    def test_a_target_that_rounding_puts_below_the_start(self):
        assert find_delta(odds_curve(0.1), 0.1 - 1e-9).delta == 0.0

    def test_the_closest_measured_point_is_taken_and_the_bracket_stays_in_the_range(self):
        found = find_delta(
            odds_curve(0.1), odds_curve(0.1)(0.999), Search(max_delta=1.0, noise=0.1)
        )
        errors = {delta: abs(value - odds_curve(0.1)(0.999)) for delta, value in found.curve}
        assert found.delta == min(errors, key=errors.get)
        assert found.bracket[1] == 1.0

    @pytest.mark.parametrize("edge", [1.0, 2.0, 8.0])
    def test_the_target_on_a_point_that_is_measured_anyway(self, edge):
        found = find_delta(odds_curve(0.1), odds_curve(0.1)(edge))
        assert abs(found.delta - edge) <= 0.01

    def test_below_the_start(self):
        with pytest.raises(CalibrationError, match=r"above the Influence at Δ = 0, which is 0\.1"):
            find_delta(odds_curve(0.1), 0.05)

    @pytest.mark.parametrize(("target", "name"), [(0.9, "max_delta=2"), (0.01, "min_delta=-1")])
    def test_out_of_range(self, target, name):
        with pytest.raises(CalibrationError, match=f"reached up to {name}"):
            find_delta(odds_curve(0.1), target, Search(min_delta=-1.0, max_delta=2.0))

    def test_flat(self):
        measure, asked = counted(lambda delta: 0.1)
        with pytest.raises(CalibrationError, match=r"Influence of 0\.1 there and 0\.1 at Δ = 0"):
            find_delta(measure, 0.2)
        assert asked == [0.0, 1.0, 2.0, 4.0, 8.0]

    @pytest.mark.parametrize("target", [0.0, 1.0, -0.5, 1.5])
    def test_no_influence_can_be_the_target(self, target):
        with pytest.raises(CalibrationError, match="between 0 and 1"):
            find_delta(odds_curve(0.1), target)

    @pytest.mark.parametrize("target", [math.nan, math.inf, "x", None, True])
    def test_targets_that_are_no_numbers(self, target):
        with pytest.raises(ValueError, match="target must be a finite Influence"):
            find_delta(odds_curve(0.1), target)

    def test_not_monotone_before_the_target_is_reached(self):
        with pytest.raises(CalibrationError, match="must rise with Δ"):
            find_delta(lambda delta: 0.3 + 0.2 * math.sin(delta), 0.6)

    def test_not_monotone_inside_the_bracket(self):
        with pytest.raises(CalibrationError, match="must rise with Δ"):
            find_delta(lambda delta: 0.9 if delta in (0, 1) else 0.1, 0.95, Search())
        with pytest.raises(CalibrationError, match="must rise with Δ"):
            find_delta(lambda delta: {0.0: 0.1, 1.0: 0.9}.get(delta, 0.01), 0.5)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.1, "0.5", None])
    def test_what_is_no_influence(self, value):
        with pytest.raises(ValueError, match=r"measure must return .* got .* at Δ = 1"):
            find_delta(lambda delta: 0.1 if delta == 0 else value, 0.2)

    @PROPERTY
    @given(seed=st.integers(0, 2**32 - 1), delta=st.floats(0.05, 3.0))
    def test_noise_of_the_stated_size_widens_the_bracket(self, seed, delta):
        noise = 0.02

        def measure(at):
            shift = hash((seed, at)) % 1000 / 1000 - 0.5  # the same at every call
            return odds_curve(0.05)(at) * (1 + noise * shift)

        found = find_delta(measure, odds_curve(0.05)(delta), Search(noise=noise))
        assert found.bracket[0] <= delta <= found.bracket[1]

    def test_known_points_are_not_measured_again(self):
        curve = odds_curve(0.1)
        known = {delta: curve(delta) for delta in (0.0, 1.0, 0.496, 0.505)}
        measure, asked = counted(lambda deltas: {0: curve(deltas[0])})
        (found,) = crossings(measure, [curve(0.5)], Search(), [known])
        assert found.delta == 0.496
        assert asked == []

    def test_searches_ask_together_for_what_each_asks_alone(self):
        curves = [odds_curve(0.1, slope) for slope in (0.3, 1.0, 1.7)]
        curves.append(lambda delta: odds_curve(0.1)(8 * (delta / 8) ** 3))
        measure, asked = counted(lambda deltas: {row: curves[row](deltas[row]) for row in deltas})
        search = Search(tolerance=1e-6)
        together = crossings(measure, [0.15] * 4, search, [{}] * 4)
        for row, curve in enumerate(curves):
            alone, own = counted(curve)
            assert together[row] == find_delta(alone, 0.15, search)
            assert [call[row] for call in asked if row in call] == own
        assert len(asked) == max(len(found.curve) for found in together) <= 14

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("max_delta", 0.0),
            ("max_delta", math.nan),
            ("max_delta", "8"),
            ("min_delta", 0.1),
            ("min_delta", -math.inf),
            ("tolerance", 0.0),
            ("tolerance", True),
            ("noise", 1.0),
        ],
    )
    def test_settings_out_of_range(self, name, value):
        with pytest.raises(ValueError, match=f"{name} must be a"):
            Search(**{name: value})
