# SPDX-License-Identifier: MIT
"""From marked tokens to bias and strength."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from guide_ext.marking.spans import Span
from guide_ext.marking.tokens import Encoding
from guide_ext.steering.batch import collate
from guide_ext.steering.steering import Steering


def encoding(tokens, *spans):
    offsets = [(index, index + 1) for index in range(tokens)]
    return Encoding(list(range(10, 10 + tokens)), offsets, "x" * tokens, (), spans)


MARKED = encoding(
    6,
    Span(0, 4, level=2),
    Span(1, 2, level=1),
    Span(3, 4, level=3),
    Span(5, 6, delta=-0.25),
    Span(2, 5, group="rule"),
)


class TestBias:
    def test_levels_scale_and_nested_marks_add_up(self):
        bias = Steering.guide(2.0).bias(MARKED)
        assert bias.dtype == torch.float32
        assert bias.tolist() == [2.0, 3.0, 2.0, 6.0, 0.0, -0.25]

    def test_negative_delta_plays_down(self):
        assert Steering.guide(-1.0).bias(MARKED).tolist() == [-1.0, -1.5, -1.0, -3.0, 0.0, -0.25]

    def test_zero_delta_leaves_stated_ones(self):
        assert Steering.guide(0.0).bias(MARKED).tolist() == [0.0] * 5 + [-0.25]

    def test_pasta_is_log_alpha_on_the_others(self):
        bias = Steering.pasta(0.01).bias(MARKED)
        assert torch.equal(bias, torch.tensor([0, 0, 0, 0, math.log(0.01), 0]))

    def test_instaboost_is_log_m_on_the_marked(self):
        bias = Steering.instaboost(5.0).bias(MARKED)
        assert torch.equal(bias, torch.tensor([1, 1, 1, 1, 0, 1]) * math.log(5.0))

    @pytest.mark.parametrize(
        "steering", [Steering.guide(2.0), Steering.pasta(0.01), Steering.instaboost(5.0)]
    )
    def test_nothing_marked_is_no_bias(self, steering):
        prompt = encoding(3, Span(0, 2, group="rule"))
        assert torch.equal(steering.bias(prompt), torch.zeros(3))

    def test_selections_of_numpy_integers(self):
        assert Steering.guide(1.0, layers=np.arange(2)).layers == (0, 1)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: Steering.guide(1.0, layers=3), "layers must be several whole numbers"),
            (lambda: Steering.guide(1.0, heads="01"), "heads must be several whole numbers"),
            (lambda: Steering.pasta(0.1, heads=[1, 2]), r"heads must be \{layer: \[head"),
            (lambda: Steering.pasta(0.1, heads={0: 1}), "heads must be several whole numbers"),
        ],
    )
    def test_selections_of_other_kinds_raise(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()

    def test_overflow_raises(self):
        with pytest.raises(ValueError, match="marks must add up to finite nats in float32"):
            Steering.guide(3e38).bias(encoding(2, Span(0, 1, level=3)))


class TestStrength:
    @pytest.mark.parametrize(
        "steering", [Steering.guide(1.0), Steering.pasta(0.5), Steering.instaboost(2.0)]
    )
    def test_all_is_none(self, steering):
        assert steering.strength(2, 3) is None

    @pytest.mark.parametrize(
        ("selection", "table"),
        [
            ({"layers": [1]}, [[0, 0, 0], [1, 1, 1]]),
            ({"heads": [0, 2]}, [[1, 0, 1], [1, 0, 1]]),
            ({"layers": [0], "heads": [2]}, [[0, 0, 1], [0, 0, 0]]),
            ({"layers": range(2), "heads": range(3)}, [[1, 1, 1], [1, 1, 1]]),
            ({"heads": {0: [1], 1: [0, 2]}}, [[0, 1, 0], [1, 0, 1]]),
        ],
    )
    def test_selection(self, selection, table):
        assert Steering.guide(1.0, **selection).strength(2, 3).tolist() == table

    def test_pasta_heads(self):
        table = Steering.pasta(0.01, heads={1: [2]}).strength(2, 3)
        assert table.tolist() == [[0, 0, 0], [0, 0, 1]]

    @pytest.mark.parametrize(
        ("selection", "message"),
        [
            ({"layers": [2]}, "layers must be below 2, the number of layers of this model, got 2"),
            ({"heads": [3]}, "heads must be below 3, the number of heads of this model, got 3"),
            ({"heads": {5: [0]}}, "layers must be below 2"),
            ({"heads": {0: [7]}}, "heads must be below 3"),
        ],
    )
    def test_outside_the_model(self, selection, message):
        with pytest.raises(ValueError, match=message):
            Steering.guide(1.0, **selection).strength(2, 3)


class TestBadArguments:
    @pytest.mark.parametrize("delta", [math.nan, math.inf, -math.inf, True, "2", None, 10**400])
    def test_delta(self, delta):
        with pytest.raises(ValueError, match="delta must be a finite number of nats, got"):
            Steering.guide(delta)

    @pytest.mark.parametrize("factor", [0, -1.0, math.nan, math.inf, True, "2", 10**400])
    @pytest.mark.parametrize(
        ("make", "name"), [(Steering.pasta, "alpha"), (Steering.instaboost, "multiplier")]
    )
    def test_factor(self, make, name, factor):
        with pytest.raises(ValueError, match=f"{name} must be a finite number above 0, got"):
            make(factor)

    @pytest.mark.parametrize("name", ["layers", "heads"])
    @pytest.mark.parametrize("value", [-1, 0.5, True, "0"])
    def test_index(self, name, value):
        with pytest.raises(ValueError, match=f"{name} must be whole numbers from 0, got"):
            Steering.guide(1.0, **{name: [value]})

    @pytest.mark.parametrize(
        ("selection", "name"),
        [
            ({"layers": []}, "layers"),
            ({"heads": []}, "heads"),
            ({"heads": {}}, "layers"),
            ({"heads": {0: []}}, "heads"),
        ],
    )
    def test_empty_selection(self, selection, name):
        with pytest.raises(ValueError, match=f"{name} must name at least one, or be None for all"):
            Steering.guide(1.0, **selection)

    def test_layers_twice(self):
        with pytest.raises(ValueError, match="layers must be None when heads are given by layer"):
            Steering.guide(1.0, layers=[0], heads={0: [1]})


class TestCollate:
    def collate(self, encodings, steerings):
        return collate(encodings, steerings, num_layers=2, num_heads=3, pad_token_id=7)

    def test_left_padding(self):
        short, long = encoding(2, Span(0, 1, level=2)), encoding(4, Span(3, 4, level=2))
        batch = self.collate([short, long], Steering.guide(1.0))
        assert batch.input_ids.tolist() == [[7, 7, 10, 11], [10, 11, 12, 13]]
        assert batch.attention_mask.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
        assert batch.bias.tolist() == [[0, 0, 1, 0], [0, 0, 0, 1]]
        assert batch.strength is None

    def test_one_steering_per_prompt(self):
        prompts = [encoding(2, Span(0, 1, level=2))] * 2
        batch = self.collate(prompts, [Steering.guide(1.0), Steering.guide(3.0, layers=[1])])
        assert batch.bias.tolist() == [[1, 0], [3, 0]]
        assert batch.strength.tolist() == [[[1] * 3] * 2, [[0] * 3, [1] * 3]]

    def test_no_prompt(self):
        with pytest.raises(ValueError, match="prompts must be at least one, got none"):
            self.collate([], Steering.guide(1.0))

    def test_empty_prompt(self):
        with pytest.raises(ValueError, match="at least one token, got prompt 1 with none"):
            self.collate([encoding(2), encoding(0)], Steering.guide(1.0))

    def test_too_few_steerings(self):
        with pytest.raises(ValueError, match="one per prompt: 2, got 1"):
            self.collate([encoding(1)] * 2, [Steering.guide(1.0)])


ENCODING = Encoding([5, 6], [(0, 1), (1, 2)], "ab", (), (Span(0, 1, level=2),))
OBJECTS = (None, "x", 3, 1.5, [1], {}, torch.zeros(2), torch.tensor(1.0), object())


class TestWrongObjects:
    """A sentence that names the argument, never an error from inside."""

    @pytest.mark.parametrize("value", OBJECTS, ids=lambda value: type(value).__name__)
    def test_encoding(self, value):
        with pytest.raises(
            TypeError, match=r"encoding must be an Encoding, got .*encode makes one"
        ):
            Steering.guide(1.0).bias(value)
        with pytest.raises(TypeError, match="prompt 1 must be an Encoding, got"):
            collate([ENCODING, value], Steering.guide(1.0), num_layers=1, num_heads=1)

    @pytest.mark.parametrize("value", [None, "x", b"x", 3, torch.zeros(2), ENCODING], ids=repr)
    def test_prompts(self, value):
        with pytest.raises(TypeError, match="prompts must be a list of Encoding, got"):
            collate(value, Steering.guide(1.0), num_layers=1, num_heads=1)

    @pytest.mark.parametrize("value", [None, "2", 2.0, True, 0, -1, [2]], ids=repr)
    @pytest.mark.parametrize("name", ["num_layers", "num_heads"])
    @pytest.mark.parametrize("layers", [None, [0]])
    def test_sizes(self, name, value, layers):
        sizes = {"num_layers": 1, "num_heads": 1, name: value}
        steering = Steering.guide(1.0, layers=layers)
        for call in (steering.strength, lambda **sizes: collate([ENCODING], steering, **sizes)):
            with pytest.raises(ValueError, match=f"{name} must be a whole number from 1, got"):
                call(**sizes)

    @pytest.mark.parametrize("value", [None, "0", 0.5, True, -1])
    def test_pad_token_id(self, value):
        sizes = {"num_layers": 1, "num_heads": 1, "pad_token_id": value}
        with pytest.raises(ValueError, match="pad_token_id must be whole numbers from 0, got"):
            collate([ENCODING], Steering.guide(1.0), **sizes)

    @pytest.mark.parametrize("value", [b"x", torch.tensor(1), 3])
    def test_selection(self, value):
        for selection in ({"layers": value}, {"heads": value}, {"heads": {0: value}}):
            with pytest.raises(ValueError, match="must be several whole numbers"):
                Steering.guide(1.0, **selection)

    def test_no_heads_of_a_layer(self):
        with pytest.raises(ValueError, match="got None for 3; pass layers="):
            Steering.guide(1.0, heads={3: None})
