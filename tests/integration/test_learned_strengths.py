# SPDX-License-Identifier: MIT
"""The gradient of guide_strength: that of eager attention, or an error."""

import encoder_decoders
import models
import pytest
import torch

import guide_ext.integration as guide

# Of the largest number: sums over a whole model, in another order.
GRADIENTS = 1e-4


def loss_of(logits, mask):
    generator = torch.Generator().manual_seed(11)
    weights = torch.randn(logits.shape, generator=generator)
    return (logits * weights * mask[..., None]).sum()


def assert_gradients_close(found, wanted):
    assert wanted.abs().max() > 0.01  # or nothing is compared
    difference = (found - wanted).abs().max() / wanted.abs().max()
    assert difference <= GRADIENTS, f"gradients differ by {difference:.3g} of the largest"


@pytest.mark.parametrize("name", models.ZOO)
def test_gradients_are_those_of_eager_attention(name):
    inputs, bias = models.prompts(), models.marks()
    mask = inputs["attention_mask"]
    wanted = models.random_strength().requires_grad_()
    plain = models.make(name)
    with models.steered_eager(plain, bias, wanted):
        loss_of(plain(**inputs, use_cache=False).logits, mask).backward()
    model = guide.enable(models.make(name))
    found = models.random_strength().requires_grad_()
    logits = model(**inputs, guide_bias=bias, guide_strength=found).logits
    loss_of(logits, mask).backward()
    assert_gradients_close(found.grad, wanted.grad)
    # The numbers are the same as without a gradient.
    again = models.logits(model, inputs, guide_bias=bias, guide_strength=found.detach())
    assert torch.equal(again, logits.detach())


def slope_of(value, strength):
    """The derivative along one direction: from gradients, and from two calls without any."""
    along = torch.randn(strength.shape, generator=torch.Generator().manual_seed(4))
    (gradient,) = torch.autograd.grad(value(strength), strength)
    with torch.no_grad():
        difference = value(strength + 1e-2 * along) - value(strength - 1e-2 * along)
    return gradient, (gradient * along).sum().item(), difference.item() / 2e-2


def test_a_model_with_dense_masks():
    model = guide.enable(models.make("doge"))
    inputs, bias = models.prompts(), models.marks()

    def value(strength):
        logits = model(**inputs, guide_bias=bias, guide_strength=strength).logits
        return loss_of(logits, inputs["attention_mask"])

    _, found, wanted = slope_of(value, models.random_strength().requires_grad_())
    assert found == pytest.approx(wanted, rel=1e-2)


def test_a_second_step_has_its_gradient():
    model = guide.enable(models.make("llama"))
    inputs, bias = models.prompts(padding=0), models.marks()
    strength = models.random_strength().requires_grad_()
    whole = model(**inputs, guide_bias=bias, guide_strength=strength).logits[:, -1].square().sum()
    (wanted,) = torch.autograd.grad(whole, strength)
    first = model(
        input_ids=inputs["input_ids"][:, :-1], guide_bias=bias[:, :-1], guide_strength=strength,
        use_cache=True,
    )  # fmt: skip
    second = model(
        input_ids=inputs["input_ids"][:, -1:], guide_bias=bias, guide_strength=strength,
        attention_mask=inputs["attention_mask"], **{models.CACHE: first[models.CACHE]},
    )  # fmt: skip
    (found,) = torch.autograd.grad(second.logits[:, -1].square().sum(), strength)
    assert_gradients_close(found, wanted)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_encoder_decoders(name):
    model = guide.enable(encoder_decoders.make(name))
    source = torch.randint(1, 60, (2, 7), generator=torch.Generator().manual_seed(2))
    target = torch.randint(1, 60, (2, 5), generator=torch.Generator().manual_seed(3))
    bias, decoder_bias = torch.zeros(2, 7), torch.zeros(2, 5)
    bias[:, 2:4], decoder_bias[:, 1:3] = 1.5, 1.0
    layers, heads = guide.table_size(model)

    def value(strength):
        logits = model(
            input_ids=source, decoder_input_ids=target, guide_bias=bias,
            guide_decoder_bias=decoder_bias, guide_strength=strength,
        ).logits  # fmt: skip
        return loss_of(logits, torch.ones(2, 5))

    strength = torch.full((2, layers, heads), 0.8).requires_grad_()
    gradient, found, wanted = slope_of(value, strength)
    assert found == pytest.approx(wanted, rel=1e-2)
    assert gradient.abs().amax((0, 2)).min() > 0  # in every layer of all three kinds


def test_compiled():
    model = guide.enable(models.make("llama"))
    inputs, bias = models.prompts(padding=0), models.marks()
    wanted, found = (models.random_strength().requires_grad_() for _ in range(2))
    for call, strength in ((model, wanted), (torch.compile(model, backend="aot_eager"), found)):
        logits = call(**inputs, guide_bias=bias, guide_strength=strength, use_cache=False).logits
        loss_of(logits, inputs["attention_mask"]).backward()
    assert_gradients_close(found.grad, wanted.grad)


def test_activation_checkpointing_is_refused_with_a_gradient_alone():
    model = guide.enable(models.make("llama")).train()
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable()
    inputs, bias = models.prompts(), models.marks()
    strength = models.random_strength()
    model(**inputs, guide_bias=bias, guide_strength=strength, use_cache=False)
    with pytest.raises(ValueError, match="must not require a gradient while activation checkp"):
        model(**inputs, guide_bias=bias, guide_strength=strength.requires_grad_(), use_cache=False)
    model.eval()
    model(**inputs, guide_bias=bias, guide_strength=strength).logits.sum().backward()
    assert strength.grad.abs().sum() > 0


def test_generation_needs_no_gradient():
    model = guide.enable(models.make("llama"))
    inputs, bias = models.prompts(), models.marks()
    strength = models.random_strength()
    wanted = models.generation(model, inputs, guide_bias=bias, guide_strength=strength)
    found = models.generation(
        model, inputs, guide_bias=bias, guide_strength=strength.clone().requires_grad_()
    )
    models.assert_same_generation(found, wanted)


@pytest.mark.parametrize("name", ["guide_strength", "guide_bias"])
def test_forward_mode_is_refused(name):
    model = guide.enable(models.make("llama"))
    inputs = models.prompts()
    given = {"guide_bias": models.marks(), "guide_strength": models.random_strength()}

    def value(tensor):
        return model(**inputs, **(given | {name: tensor})).logits.sum()

    with pytest.raises(NotImplementedError, match=f"{name} must not have a tangent"):
        torch.func.jvp(value, (given[name],), (torch.ones_like(given[name]),))
    if name == "guide_strength":
        found = torch.func.grad(value)(given[name])
        strength = given[name].clone().requires_grad_()
        value(strength).backward()
        assert_gradients_close(found, strength.grad)
