# SPDX-License-Identifier: MIT
"""What a measurement gives: the Influence at the end of the prompt."""

import pytest
import torch

from guide_ext.influence.result import Influence


def test_end_of_prompt_counts_no_padding():
    values = torch.arange(5.0).expand(2, 1, 1, 5)
    mask = torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1]]).bool()
    found = Influence(values, ("a",), "paper", mask, 5)
    assert found.at_end_of_prompt(4).tolist() == [[3.5], [2.5]]
    with pytest.raises(ValueError, match="tokens must be a whole number from 1, got 0"):
        found.at_end_of_prompt(0)


@pytest.mark.parametrize("tokens", [None, "2", 1.5, True, 0, [2]], ids=repr)
def test_what_is_no_number_of_tokens(tokens):
    values, mask = torch.zeros(1, 1, 1, 4), torch.ones(1, 4, dtype=torch.bool)
    measured = Influence(values, ("rule",), "paper", mask, 4)
    with pytest.raises(ValueError, match="tokens must be a whole number from 1, got"):
        measured.at_end_of_prompt(tokens)
