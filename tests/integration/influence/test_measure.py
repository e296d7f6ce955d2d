# SPDX-License-Identifier: MIT
"""Influence of prompts: the model's own eager attention says what it must be."""

import pytest
import torch
from influence_reference import TOKENS, reference_heads, reference_levels, seeds
from models import DENSE, LAYERS, ZOO, logits, make, marks, prompts
from tolerance import INFLUENCE

from guide_ext import integration as guide
from guide_ext.influence.forms import FORMS
from guide_ext.integration.influence.measure import influence_in_forms
from guide_ext.integration.model.locate import locate
from guide_ext.integration.model.trial import tiny_batch


def measured(model, inputs, seed, **options):
    return guide.influence(model, {**inputs, "guide_seed": seed}, **options)


def assert_close(found, wanted, mask):
    """Compare tokens that are not padding."""
    tokens = mask.bool()[:, None, None].expand_as(found.values)
    difference = (found.values.double() - wanted)[tokens].abs().max().item()
    assert difference <= INFLUENCE, f"{difference:.2e}"


@pytest.fixture(params=ZOO)
def architecture(request):
    return request.param


@pytest.mark.parametrize("steered", [False, True], ids=["plain", "steered"])
@pytest.mark.parametrize("form", FORMS)
def test_equal_to_eager_attention(architecture, form, steered):
    model, inputs, seed = make(architecture), prompts(), seeds()
    bias = marks() if steered else None
    wanted = reference_levels(model, architecture, inputs, seed, form=form, bias=bias)
    steering = {} if bias is None else {"guide_bias": bias}
    found = measured(guide.enable(model), {**inputs, **steering}, seed, form=form)
    assert found.values.shape == (2, LAYERS + 1, 2, TOKENS)
    assert_close(found, wanted, inputs["attention_mask"])
    assert found.values[0, :, :, :3].eq(0).all()  # padding


def test_several_forms_in_one_pass(architecture):
    model = guide.enable(make(architecture))
    inputs = {**prompts(), "guide_seed": seeds(), "guide_bias": marks()}
    forms = [*FORMS][::-1]
    found = influence_in_forms(model, inputs, forms, groups=["a", "b"])
    assert [*found] == forms
    for form, one in found.items():
        alone = guide.influence(model, inputs, form=form, groups=["a", "b"])
        assert (one.form, one.groups) == (form, ("a", "b"))
        assert torch.equal(one.values, alone.values)


@pytest.mark.parametrize("forms", [[], "paper", ["paper", "raw", "paper"], ["papr"]])
def test_wrong_forms(forms):
    model, inputs = guide.enable(make("llama")), {**prompts(), "guide_seed": seeds()}
    with pytest.raises(ValueError, match="form"):
        influence_in_forms(model, inputs, forms)


@pytest.mark.parametrize("name", DENSE)
def test_models_with_dense_masks(name):
    model, inputs, seed = make(name), prompts(), seeds()
    wanted = reference_levels(model, name, inputs, seed)
    found = measured(guide.enable(model), inputs, seed)
    assert_close(found, wanted, inputs["attention_mask"])


def test_heads(architecture):
    model, inputs, seed = make(architecture), prompts(), seeds()
    wanted = reference_heads(model, architecture, inputs, seed, marks())
    inputs["guide_bias"] = marks()
    found = measured(guide.enable(model), inputs, seed, form="raw", by_head=True)
    tokens = inputs["attention_mask"].bool()[:, None, None, None].expand_as(wanted)
    assert (found.by_head.double() - wanted)[tokens].abs().max() <= INFLUENCE
    torch.testing.assert_close(found.by_head.mean(3), found.values[:, 1:])


@pytest.mark.parametrize("form", ["paper", "exact", "authors", "rollout"])
def test_disjoint_groups_share_the_whole(architecture, form):
    inputs = prompts()
    seed = torch.zeros(2, 3, TOKENS)
    for token in range(TOKENS):
        seed[:, token % 3, token] = 1
    found = measured(guide.enable(make(architecture)), inputs, seed, form=form)
    assert (found.values >= 0).all()
    assert (found.values <= 1 + INFLUENCE).all()
    total = found.values.sum(2)[inputs["attention_mask"].bool()[:, None].expand(-1, LAYERS + 1, -1)]
    if architecture == "gpt_oss" and form != "exact":  # the share of its sinks is of no token
        assert (total <= 1 + INFLUENCE).all()
        assert total.min() < 0.99
    else:
        assert (total - 1).abs().max() <= INFLUENCE


def test_measuring_changes_nothing(architecture):
    model, inputs = guide.enable(make(architecture)), prompts()
    before = logits(model, inputs, guide_bias=marks())
    measured(model, {**inputs, "guide_bias": marks()}, seeds())
    assert torch.equal(logits(model, inputs, guide_bias=marks()), before)
    guide.disable(model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(architecture, dtype):
    """Where E and U are is found among rounded numbers; the values differ by their rounding."""
    inputs, seed = prompts(), seeds()
    wanted = measured(guide.enable(make(architecture)), inputs, seed)
    found = measured(guide.enable(make(architecture).to(dtype)), inputs, seed)
    assert (found.values - wanted.values).abs().max() < 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_beside_a_token_with_a_huge_residual_stream(dtype):
    """Rounding of the one must not hide what is added to the others."""
    inputs, seed = prompts(), seeds()
    wanted = measured(guide.enable(make("llama").to(dtype)), inputs, seed)
    model = make("llama").to(dtype)
    tried = tiny_batch(model)[0][1]
    free = next(int(token) for token in tried if token not in inputs["input_ids"])
    with torch.no_grad():
        model.get_input_embeddings().weight[free] *= 1e4
    found = measured(guide.enable(model), inputs, seed)
    # The scale of the update is fitted, to other numbers.
    assert (found.values - wanted.values).abs().max() < 1e-3


def test_a_seed_without_a_measurement_is_ignored():
    model, inputs = guide.enable(make("llama")), prompts()
    assert torch.equal(logits(model, inputs, guide_seed=seeds()), logits(model, inputs))
    plain = model.generate(**inputs, max_new_tokens=3)
    assert torch.equal(model.generate(**inputs, guide_seed=seeds(), max_new_tokens=3), plain)


def test_groups_of_tags():
    model, tokenizer = guide.load_embedded()
    texts = ["<?rule->Summarize in French<-?rule>: <?->the cat<-?> sat", "the <?rule->cat<-?rule>"]
    inputs = guide.encode(model, tokenizer, texts)
    assert inputs.groups == ("rule", "marked")
    assert inputs["guide_seed"].shape == (2, 2, inputs["input_ids"].shape[1])
    found = guide.influence(model, inputs)
    assert found.groups == ("rule", "marked")
    assert found.token_ids.equal(inputs["input_ids"])
    assert found.values[1, :, 1].eq(0).all()  # the second text marks nothing of that name
    assert (found.at_end_of_prompt()[:, 0] > 0).all()
    assert guide.influence(model, inputs, groups=("a", "b")).groups == ("a", "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.pop("guide_seed"), "inputs must have guide_seed"),
        (lambda i: i.update(guide_seed=torch.zeros(2, TOKENS)), "inputs must have guide_seed"),
        (lambda i: i.update(guide_seed=torch.zeros(3, 1, TOKENS)), "with 2 row"),
        (lambda i: i.update(guide_seed=torch.zeros(2, 0, TOKENS)), "inputs must have guide_seed"),
    ],
)
def test_wrong_seeds(change, message):
    model, inputs = guide.enable(make("llama")), {**prompts(), "guide_seed": seeds()}
    change(inputs)
    with pytest.raises(ValueError, match=message):
        guide.influence(model, inputs)


def test_a_seed_of_another_length():
    model, inputs = guide.enable(make("llama")), {**prompts(), "guide_seed": seeds()[..., :-1]}
    with pytest.raises(ValueError, match=r"guide_seed must be .* with 9 tokens, .* got .*2, 8\]"):
        guide.influence(model, inputs)


def test_embeddings():
    model, inputs, seed = guide.enable(make("llama")), prompts(), seeds()
    wanted = measured(model, inputs, seed)
    inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids"))
    assert torch.equal(measured(model, inputs, seed).values, wanted.values)
    with pytest.raises(ValueError, match="inputs must have input_ids"):
        guide.generate_with_influence(model, {**inputs, "guide_seed": seed})


def test_wrong_names():
    model, inputs = guide.enable(make("llama")), {**prompts(), "guide_seed": seeds()}
    with pytest.raises(ValueError, match=r"groups must name the 2 groups .*, got \['one'\]"):
        guide.influence(model, inputs, groups=["one"])


def test_models_that_are_not_enabled():
    with pytest.raises(ValueError, match="model must be enabled"):
        guide.influence(make("llama"), {**prompts(), "guide_seed": seeds()})


def test_a_model_whose_update_cannot_be_found():
    """Its layers shift what the attention block returns, and scale what they return."""
    model = make("llama")
    for layer in model.model.layers:
        layer.post_attention_layernorm.register_forward_pre_hook(lambda m, args: (args[0] + 0.3,))
        layer.register_forward_hook(lambda m, args, out: 1.5 * out)
    with pytest.raises(guide.UnsupportedModelError, match="attention layer 0 of LlamaForCausalLM"):
        guide.influence(guide.enable(model), {**prompts(), "guide_seed": seeds()})


class Nudge(torch.nn.Module):
    """Changes what the attention block returns by less than the search may miss by."""

    def forward(self, hidden_states):
        wave = torch.arange(hidden_states.shape[-1]).sin()
        return hidden_states * (1 + 5e-5 * wave)


def test_of_two_that_fit_the_better_one_is_taken():
    model = make("gemma2")
    for layer in model.model.layers:
        layer.post_attention_layernorm = Nudge()
    attention_modules = tuple(layer.self_attn for layer in model.model.layers)
    places = locate(guide.enable(model), attention_modules)
    for place, layer in zip(places, model.model.layers, strict=True):
        assert place.layer is layer
        assert place.update is layer.post_attention_layernorm
        assert abs(place.scale - 1) < 1e-6


@pytest.mark.parametrize("call", [guide.influence, guide.generate_with_influence])
def test_a_layer_that_does_not_run(call):
    """All levels behind it would be 0. No bias is given, so nothing else would see it."""
    model = guide.enable(make("llama"))
    inputs = {**prompts(), "guide_seed": seeds()}
    call(model, inputs)
    model.model.layers[1].forward = lambda hidden_states, *args, **kwargs: hidden_states
    with pytest.raises(
        RuntimeError, match=f"in all {LAYERS} attention layers, got a call .* layer 1"
    ):
        call(model, inputs)
