# SPDX-License-Identifier: MIT
"""Layers that change the residual stream before their attention reads it: where E is then.

Compared with a recursion that is written out here, from whole matrices of eager attention and from
modules that are named here.
"""

import pytest
import torch
from sweep.build import VOCABULARY, build
from tolerance import INFLUENCE

import guide_ext.integration as guide

TOKENS = 14
# Patterns of the modules whose input is E and whose output is U and A, in the order of the calls.
PLACES = {
    # The norm in front of the attention is the stream: its output is what U is added to.
    "minimax": [("model.layers.{}.self_attn", "model.layers.{}.self_attn")],
    # Two attentions in a layer, and a feed-forward step between them.
    "longcat_flash": [
        ("model.layers.{}.input_layernorm.0", "model.layers.{}.self_attn.0"),
        ("model.layers.{}.input_layernorm.1", "model.layers.{}.self_attn.1"),
    ],
}


def levels_by_hand(model, places, ids, seed):
    """Return Influence after every attention, [batch, levels, tokens], float64."""
    seen = {}

    def read(path):
        def keep(module, args, kwargs):
            seen[path] = (args[0] if args else kwargs["hidden_states"]).double()

        return keep

    def wrote(path):
        def keep(module, args, output):
            seen[path] = output[0].double(), output[1].double()

        return keep

    for residual, update in places:
        model.get_submodule(residual).register_forward_pre_hook(read(residual), with_kwargs=True)
        model.get_submodule(update).register_forward_hook(wrote(f"{update}:out"))
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    levels = [seed.double()]
    for residual, update in places:
        written, attention = seen[f"{update}:out"]
        ratio = seen[residual].norm(dim=-1) / written.norm(dim=-1)
        mixed = torch.einsum("bhqk,bk->bhq", attention, levels[-1]).mean(1)
        levels.append((ratio * levels[-1] + mixed) / (1 + ratio))
    return torch.stack(levels, 1)


@pytest.mark.parametrize("name", PLACES)
def test_influence_where_the_stream_changes_before_the_attention(name):
    model = build(name)
    ids = torch.randint(3, VOCABULARY, (2, TOKENS), generator=torch.Generator().manual_seed(1))
    seed = torch.zeros(2, TOKENS)
    seed[0, 2:5] = seed[1, 7] = 1
    places = [
        tuple(path.format(layer) for path in pair)
        for layer in range(len(model.model.layers)) for pair in PLACES[name]
        if pair[1].format(layer) in dict(model.named_modules())
        and hasattr(model.get_submodule(pair[1].format(layer)), "o_proj")
    ]  # fmt: skip
    assert len(places) > 1
    wanted = levels_by_hand(build(name), places, ids, seed)
    guide.enable(model)
    assert guide.table_size(model)[0] == len(places)
    found = guide.influence(
        model,
        {
            "input_ids": ids, "attention_mask": torch.ones_like(ids),
            "guide_bias": torch.zeros(2, TOKENS), "guide_seed": seed[:, None],
        },
    )  # fmt: skip
    assert (found.values[:, :, 0].double() - wanted).abs().max() <= INFLUENCE
    assert wanted[:, -1].max() > 1e-2
