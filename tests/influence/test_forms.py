# SPDX-License-Identifier: MIT
"""The forms of Influence: their names, and the tensors that they take."""

import numpy as np
import pytest
import torch

from guide_ext.influence.forms import form_named


def test_unknown_form():
    with pytest.raises(ValueError, match=r"form must be one of 'paper', .*, got 'l3'"):
        form_named("l3")


@pytest.mark.parametrize("name", [None, 3, ["paper"], {}, torch.zeros(2)], ids=repr)
def test_what_is_no_name_of_a_form(name):
    with pytest.raises(ValueError, match="form must be one of 'paper', "):
        form_named(name)


@pytest.mark.parametrize("value", [3, "x", [1.0], np.zeros(2)], ids=repr)
def test_what_is_no_tensor_of_a_form(value):
    form, level = form_named("exact"), torch.zeros(1, 1, 4)
    calls = {
        "vectors": lambda: form.norms(value),
        "level": lambda: form.channels(value, None),
        "residual": lambda: form.channels(level, value),
        "previous": lambda: form.step(value, torch.zeros(1, 2, 2, 4), None, None),
        "reduced": lambda: form.step(level, value, None, None),
        "update": lambda: form.step(level, torch.zeros(1, 2, 2, 4), level, value),
    }
    for name, call in calls.items():
        with pytest.raises(TypeError, match=f"{name} must be a torch.Tensor, got"):
            call()
    with pytest.raises(TypeError, match="scale must be a number, got '2'"):
        form.norms(torch.zeros(1, 2, 3), "2")
