# SPDX-License-Identifier: MIT
"""Models that choose the keys of every query: the choice is kept, in prompts longer than it."""

import influence_reference
import pytest
import torch
from models import assert_logits_close
from sweep import compare
from sweep.build import WINDOW, build
from tolerance import INFLUENCE
from torch import nn

import guide_ext.integration as guide
from guide_ext.integration.call.selection import selected_keys

INDICES = ("deepseek_v32", "glm_moe_dsa", "axk2", "hy_v4", "dots3_note_text")
BLOCKS = ("minimax_m3_vl_text",)


@pytest.mark.parametrize("name", [*INDICES, *BLOCKS])
class TestModels:
    def test_selection_bites(self, name):
        """Without it the logits would be others: a selection of all keys is no selection."""
        model = build(name)
        dense = build(name, index_topk=compare.TOKENS, index_topk_blocks=compare.TOKENS)
        inputs = compare.prompts()
        found, other = compare.logits_of(model, inputs), compare.logits_of(dense, inputs)
        assert (found - other).abs().max() > 0.05 * found.abs().max()
        assert compare.TOKENS > 2 * WINDOW

    def test_prompt_and_generation(self, name):
        verdict = compare.compare(build(name))
        assert verdict.kind.startswith("exact"), verdict
        assert set(verdict.errors) == {"plain", "steered", "strength", "generated"}

    def test_unsteered_before_enable(self, name):
        model, inputs = build(name), compare.prompts(padding=0)
        wanted = compare.logits_of(model, inputs)
        implementation = guide.enable(build(name)).config._attn_implementation
        model.set_attn_implementation(implementation)
        assert_logits_close(compare.logits_of(model, inputs), wanted, inputs["attention_mask"])


@pytest.mark.parametrize("name", ["deepseek_v32", "minimax_m3_vl_text"])
def test_influence_flows_through_chosen_keys_alone(name):
    model, inputs, bias = build(name), compare.prompts(padding=0), compare.marks()
    seed = (bias > 0)[:, None].float()
    with compare.adding(bias, compare.Total(compare.TOKENS)):
        wanted = influence_reference.reference_levels(model, name, inputs, seed)
    guide.enable(model)
    found = guide.influence(model, {**inputs, "guide_bias": bias, "guide_seed": seed}).values
    real = inputs["attention_mask"].bool()[:, None, None].expand_as(found)
    assert (found.double() - wanted)[real].abs().max() <= INFLUENCE


def test_share_is_refused():
    model, inputs = guide.enable(build("minimax_m3_vl_text")), compare.prompts()
    share = (compare.marks() > 0) * 0.3
    with pytest.raises(ValueError, match="guide_share must go to a model whose layers see all"):
        model(**inputs, guide_share=share)


class TestTable:
    def test_blocks_of_groups(self):
        module = nn.Module()
        module.indexer = nn.Module()
        module.indexer.block_size = 2
        blocks = torch.tensor([[[[0, -1], [1, -1], [2, 0]], [[0, -1], [0, 1], [2, -1]]]])
        found = selected_keys(module, None, blocks, 4, 5).int()
        first = [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [1, 1, 0, 0, 1]]
        second = [[1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [0, 0, 0, 0, 1]]
        assert found.tolist() == [[first, first, second, second]]

    def test_none(self):
        assert selected_keys(nn.Module(), None, None, 4, 5) is None

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("indices", torch.zeros(1, 2, 3)),
            ("indices", torch.zeros(1, 2, 3, dtype=torch.bool)),
            ("indices", torch.zeros(1, 1, 2, 3, dtype=torch.int32)),
            ("block_indices", torch.zeros(1, 2, 3, dtype=torch.int32)),
        ],
    )
    def test_other_forms(self, name, value):
        given = {"indices": None, "block_indices": None, name: value}
        with pytest.raises(ValueError, match=rf"^{name} must be whole numbers \[batch"):
            selected_keys(nn.Module(), given["indices"], given["block_indices"], 2, 4)

    def test_blocks_of_unknown_size(self):
        with pytest.raises(ValueError, match=r"indexer\.block_size.*got block size None"):
            selected_keys(nn.Module(), None, torch.zeros(1, 2, 3, 1, dtype=torch.int32), 2, 4)
