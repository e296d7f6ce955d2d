# SPDX-License-Identifier: MIT
"""The tolerance policy itself: what it lets through, and that it can fail."""

import pytest
import torch
from _pytest.outcomes import Failed
from tolerance import FLOOR_ULPS, NAIVE_FACTOR, assert_accurate

ORACLE = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
EPS = torch.finfo(torch.float32).eps


def _off_by(error):
    return (ORACLE + torch.tensor([0.0, 0.0, error])).float()


@pytest.mark.parametrize("naive_error", [0.0, 1e-3])
def test_the_limit(naive_error):
    limit = NAIVE_FACTOR * naive_error + FLOOR_ULPS * EPS * 2.0
    assert_accurate(_off_by(0.95 * limit), ORACLE, _off_by(naive_error))
    with pytest.raises(Failed, match=r"result .* at \(2,\) where the oracle has 0.5"):
        assert_accurate(_off_by(1.2 * limit), ORACLE, _off_by(naive_error))


@pytest.mark.parametrize("naive", [torch.nan, torch.inf])
def test_a_naive_result_that_is_not_finite_allows_nothing(naive):
    with pytest.raises(Failed, match="naive PyTorch has error 0"):
        assert_accurate(_off_by(0.1), ORACLE, torch.tensor([1.0, naive, 0.5]))


@pytest.mark.parametrize("special", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_must_be_the_same(special):
    other = torch.tensor([1.0, special, 0.5])
    assert_accurate(other, other.double(), other)
    for actual, oracle in ((other, ORACLE), (ORACLE.float(), other.double())):
        with pytest.raises(Failed, match=r"at \(1,\) where the oracle has"):
            assert_accurate(actual, oracle, other)


def test_shapes_must_be_the_same():
    with pytest.raises(Failed, match="shape"):
        assert_accurate(ORACLE[None].float(), ORACLE, ORACLE.float())
