# SPDX-License-Identifier: MIT
"""Where keys and queries come from before their rotary position, beside what attention gets."""

import dataclasses

import models
import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

import guide_ext.integration as guide
from guide_ext.integration.keys import key_places, keys_of, last_queries


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "gemma3_text", "gpt_oss", "phi"])
def test_where_keys_come_from(name):
    model = guide.enable(models.make(name))
    places = key_places(model, "seka()")
    assert len(places) == models.LAYERS
    ids = models.prompts(rows=1, padding=0)["input_ids"]
    keys = keys_of(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, places)
    with torch.no_grad():
        output = model(input_ids=ids, use_cache=True)
    held = [layer.keys[0] for layer in output[models.CACHE].layers]
    for own, wanted in zip(keys, held, strict=True):
        norms = own[:, -wanted.shape[1] :].norm(dim=-1)
        wanted = wanted.norm(dim=-1)
        norms = norms * (wanted.sum() / norms.sum())  # gpt_oss scales all keys alike
        torch.testing.assert_close(norms, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "how"),
    [("gpt2", {}), ("gpt_neox", {}), ("bloom", {}), ("phi", {"qk_layernorm": True})],
)
def test_models_whose_keys_cannot_be_edited(name, how):
    model = guide.enable(models.make(name, **how))
    with pytest.raises(ValueError, match=r"seka\(\) must go to a model"):
        key_places(model, "seka()")


def test_a_module_of_several_layers_is_refused():
    model = models.make("llama")
    model.model.layers[1].self_attn.k_proj = model.model.layers[0].self_attn.k_proj
    with pytest.raises(ValueError, match="with one that serves several layers"):
        key_places(guide.enable(model), "seka()")


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "gemma3_text", "gpt_oss", "phi"])
def test_queries_are_those_that_attention_gets(name):
    """The first position is not rotated, so that attention gets a query as it was before."""
    model = models.make(name)
    ids = torch.tensor([[5], [9], [31]])
    got = []

    def attend(module, query, key, value, *args, **kwargs):
        got.append(query[:, :, 0].unflatten(1, (key.shape[1], -1)).mean(2))
        return query[..., : value.shape[-1]].transpose(1, 2) * 0, None

    before = model.config._attn_implementation
    AttentionInterface.register("query_watch", attend)
    AttentionMaskInterface.register("query_watch", eager_mask)
    model.set_attn_implementation("query_watch")
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        model(**inputs)
    model.set_attn_implementation(before)
    guide.enable(model)
    found = last_queries(model, inputs, key_places(model, "ada_seka()"), "ada_seka()")
    first = got[0] * (found[0].norm() / got[0].norm())  # gpt_oss scales all queries alike
    torch.testing.assert_close(found[0], first, rtol=1e-4, atol=1e-5)
    assert found.shape[:2] == (models.LAYERS, 3)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_last_token_is_that_of_each_row(side):
    model = guide.enable(models.make("llama"))
    places = key_places(model, "ada_seka()")
    rows = [torch.tensor([[3, 7, 11, 2]]), torch.tensor([[8, 5]])]
    alone = [
        last_queries(model, {"input_ids": r, "attention_mask": torch.ones_like(r)}, places, "f()")
        for r in rows
    ]
    pad = (2, 0) if side == "left" else (0, 2)
    ids = torch.cat([rows[0], torch.nn.functional.pad(rows[1], pad)])
    mask = torch.cat([torch.ones(1, 4), torch.nn.functional.pad(torch.ones(1, 2), pad)]).long()
    found = last_queries(model, {"input_ids": ids, "attention_mask": mask}, places, "f()")
    torch.testing.assert_close(found, torch.cat(alone, 1), rtol=1e-4, atol=1e-5)


def test_models_whose_queries_cannot_be_read():
    model = guide.enable(models.make("llama"))
    places = key_places(model, "ada_seka()")
    ids = torch.tensor([[3, 7]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    without = [*places[:1], dataclasses.replace(places[1], query=None), *places[2:]]
    with pytest.raises(ValueError, match=r"ada_seka\(\) must go to .* with layers without one"):
        last_queries(model, inputs, without, "ada_seka()")
    others = [dataclasses.replace(one, query=model.lm_head) for one in places]
    with pytest.raises(ValueError, match=r"got a LlamaForCausalLM with something else in layer 0"):
        last_queries(model, inputs, others, "ada_seka()")
