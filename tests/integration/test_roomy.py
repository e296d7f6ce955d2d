# SPDX-License-Identifier: MIT
import models
import pytest
import torch
from transformers.cache_utils import DynamicLayer

from guide_ext.integration.roomy import RoomyLayer, roomy_cache


def states(tokens, rows=3, seed=0):
    return torch.randn(rows, 2, tokens, 4, generator=torch.Generator().manual_seed(seed))


def test_holds_what_a_growing_layer_holds():
    roomy, plain = RoomyLayer(), DynamicLayer()
    for step, tokens in enumerate((5, 1, 1, 90, *[1] * 70)):
        new = states(tokens, seed=step), states(tokens, seed=-step - 1)
        for found, wanted in zip(roomy.update(*new), plain.update(*new), strict=True):
            assert torch.equal(found, wanted)
        assert roomy.get_seq_length() == plain.get_seq_length()
    place = roomy.keys.data_ptr()
    roomy.update(states(1), states(1))
    assert roomy.keys.data_ptr() == place


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.batch_select_indices(torch.tensor([2, 2, 0])),
        lambda layer: layer.batch_repeat_interleave(2),
        lambda layer: layer.crop(-2),
        lambda layer: layer.reorder_cache(torch.tensor([1, 0, 2])),
        lambda layer: layer.reset(),
    ],
)
def test_what_others_do_to_it_is_kept(change):
    roomy, plain = RoomyLayer(), DynamicLayer()
    for layer in (roomy, plain):
        layer.update(states(5), states(5, seed=1))
        change(layer)
        rows = 6 if layer.is_initialized and len(layer.keys) == 6 else 3
        layer.update(states(2, rows, seed=2), states(2, rows, seed=3))
        layer.update(states(1, rows, seed=4), states(1, rows, seed=5))
    assert torch.equal(roomy.keys, plain.keys)
    assert torch.equal(roomy.values, plain.values)


def test_a_model_that_forgets_has_none():
    for name in models.SLIDING:
        assert roomy_cache(models.shared(name).config) is None
