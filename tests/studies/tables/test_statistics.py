# SPDX-License-Identifier: MIT
"""Rates, areas and intervals."""

import numpy as np
import pytest

from guide_ext.studies.tables import statistics


class TestStatistics:
    def cases(self, values, success, length=None, documents=None):
        count = len(values)
        return statistics.Cases(
            np.arange(count) if documents is None else np.array(documents),
            np.array(values, dtype=float), np.array(success, dtype=bool),
            np.zeros(count, dtype=int) if length is None else np.array(length),
        )  # fmt: skip

    def test_area_equals_scipy(self):
        from scipy import stats

        rng = np.random.default_rng(1)
        values, success = rng.integers(0, 9, 80).astype(float), rng.random(80) < 0.4
        wanted = stats.mannwhitneyu(values[success], values[~success]).statistic
        wanted /= success.sum() * (~success).sum()
        assert statistics.area(self.cases(values, success)) == pytest.approx(wanted)

    def test_length_foretells_nothing_within_one_length(self):
        length = np.arange(60) // 10
        success = np.arange(60) % 10 < 9 - length
        cases = self.cases(1.0 / (1 + length), success, length)
        assert statistics.area(cases) > 0.6
        assert statistics.area_within(cases) == 0.5
        alone = self.cases(np.ones(60), np.ones(60), length)
        assert np.isnan(statistics.area_within(alone))
        assert statistics.statistic_with_interval(alone, statistics.area) == (None, None, None)

    def test_intervals_are_over_documents(self):
        rng = np.random.default_rng(2)
        scores = (rng.random(20) < 0.5).astype(float)
        once = statistics.rate((str(i), s) for i, s in enumerate(scores))
        often = statistics.rate((str(i), s) for i, s in enumerate(scores) for _ in range(9))
        assert often == once  # nine equal answers about a document say no more than one
        assert once[1] < once[0] < once[2]

    def test_interval_covers(self):
        """Of 95 % intervals some 95 % hold the truth."""
        rng = np.random.default_rng(3)
        hits = 0
        for _ in range(100):
            _, low, high = statistics.rate(
                (str(i), float(s)) for i, s in enumerate(rng.random(60) < 0.3)
            )
            hits += low <= 0.3 <= high
        assert 87 <= hits <= 100


def test_intervals_are_low_then_high():
    rng = np.random.default_rng(5)
    success = rng.random(60) < 0.5
    values = success + rng.normal(size=60)
    cases = statistics.Cases(np.arange(60), values, success, np.zeros(60, dtype=int))
    for statistic in (statistics.area, statistics.area_within, statistics.correlation):
        value, low, high = statistics.statistic_with_interval(cases, statistic)
        assert low < value < high
        assert 0.1 < high - low < 0.6
