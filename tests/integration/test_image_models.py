# SPDX-License-Identifier: MIT
"""Models that read images beside text: equal to their own eager attention with a bias in its mask.

What their outer parts hand to attention is known, too; their vision towers get no bias.
"""

from contextlib import contextmanager

import models
import pytest
import torch
from eager_calls import add_to_mask, changed
from image_models import MAKERS, make, picture, placeholder
from influence_reference import reference_levels
from tolerance import INFLUENCE

import guide_ext.integration as guide
from guide_ext.integration.model.verify import UnsupportedModelError

TOKENS_OF_IMAGES = [name for name in MAKERS if name != "mllama"]
NEW_TOKENS = 6


def part_of_text(model):
    inner = model.model
    return inner.text_model if hasattr(inner, "text_model") else inner.language_model


@contextmanager
def biased(model, bias):
    """Add a bias to the mask of every eager attention to text, also in steps from a cache."""
    layers = [m for m in part_of_text(model).modules() if type(m).__name__.endswith("Attention")]
    layers = {layer for layer in layers if "Cross" not in type(layer).__name__}
    tokens = 0

    def count(module, args, kwargs):
        nonlocal tokens
        ids = kwargs.get("input_ids", args[0] if args else None)
        is_whole = ids.shape[1] >= bias.shape[1]
        tokens = ids.shape[1] if is_whole else tokens + ids.shape[1]

    def add(given):
        if given["module"] in layers:
            keys, queries = given["key"].shape[2], given["query"].shape[2]
            nats = torch.nn.functional.pad(bias, (0, tokens - bias.shape[1]))[:, -keys:]
            add_to_mask(given, nats[:, None, None].expand(-1, -1, queries, -1))

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        with changed(add):
            yield
    finally:
        handle.remove()


@pytest.fixture(params=TOKENS_OF_IMAGES)
def name(request):
    return request.param


def encoded(name, model, processor):
    """Two prompts with one and two images, of which the first is padded, marked in both."""
    one = placeholder(name)
    texts = [
        f"<?word->What<-?word> is <!!-><?image->{one}<-?image><-!!> <!->the colour<-!>?",
        f"<!!!->Compare<-!!!> {one} <?word->closely<-?word> with <!-1-><?image->{one}<-?image><-!> "
        "in <!->French<-!>, in two short sentences.",
    ]
    pictures = [[picture(12, 10)], [picture(30, 12, 1), picture(9, 20, 2)]]
    inputs = guide.encode(model, processor, texts, images=pictures, delta=2.0)
    assert not inputs["attention_mask"].all()
    return inputs


def split(inputs):
    """The inputs without steering, the bias, and the seed."""
    plain = {key: value for key, value in inputs.items() if not key.startswith("guide_")}
    return plain, inputs["guide_bias"], inputs["guide_seed"]


def test_prefill(name):
    model, processor = make(name)
    guide.enable(model)
    inputs, bias, _ = split(encoded(name, model, processor))
    unsteered = models.logits(model, inputs)
    steered = models.logits(model, inputs, guide_bias=bias)
    guide.disable(model).set_attn_implementation("eager")
    plain = models.logits(model, inputs)
    with biased(model, bias):
        wanted = models.logits(model, inputs)
    mask = inputs["attention_mask"]
    models.assert_logits_close(unsteered, plain, mask)
    models.assert_logits_close(steered, wanted, mask)
    assert (wanted - plain)[mask.bool()].abs().max() > 0.05 * plain.abs().max()


def test_generation(name):
    model, processor = make(name)
    guide.enable(model)
    inputs, bias, _ = split(encoded(name, model, processor))
    found = models.generation(model, inputs, guide_bias=bias)
    guide.disable(model).set_attn_implementation("eager")
    with biased(model, bias):
        wanted = models.generation(model, inputs)
    models.assert_same_generation(found, wanted)
    unsteered = models.generation(model, inputs)
    assert any(
        (one - other).abs().max() > 0.01 * other.abs().max()
        for one, other in zip(found.logits[1:], unsteered.logits[1:], strict=True)
    )


def test_an_image_alone_moves_logits(name):
    """The marks on an image are not only on its placeholder: without them, other logits."""
    model, processor = make(name)
    guide.enable(model)
    inputs = guide.encode(
        model, processor, f"What is {placeholder(name)} <!!->here<-!!>?", images=[picture()]
    )
    ids = inputs["input_ids"][0].tolist()
    image_token = model.config.image_token_id
    of_image = torch.tensor([[index == image_token for index in ids]])
    assert of_image.sum() > 1
    moved = [
        models.logits(model, split({**inputs, "guide_seed": None})[0], guide_bias=bias)
        for bias in (torch.zeros(1, len(ids)), 3.0 * of_image)
    ]
    assert (moved[0] - moved[1]).abs().max() > 0.01 * moved[0].abs().max()


@pytest.mark.parametrize("row", [0, 1])
def test_a_row_of_a_batch_equals_the_prompt_alone(name, row):
    model, processor = make(name)
    guide.enable(model)
    one = placeholder(name)
    texts = [f"<!!->What<-!!> is {one}?", f"Compare {one} with <!!->{one}<-!!>, in two sentences."]
    pictures = [[picture(12, 10)], [picture(30, 12, 1), picture(9, 20, 2)]]
    both = guide.encode(model, processor, texts, images=pictures, delta=2.0)
    alone = guide.encode(model, processor, texts[row], images=pictures[row], delta=2.0)
    together = models.generation(model, both)
    apart = models.generation(model, alone)
    tokens = alone["input_ids"].shape[1]
    assert both["guide_bias"][row, -tokens:].tolist() == alone["guide_bias"][0].tolist()
    assert together.sequences[row, -NEW_TOKENS:].tolist() == apart.sequences[0, tokens:].tolist()
    for wide, narrow in zip(together.logits, apart.logits, strict=True):
        models.assert_logits_close(wide[row : row + 1], narrow)


@pytest.mark.parametrize("steered", [False, True], ids=["plain", "steered"])
def test_influence_of_text_and_images(name, steered):
    model, processor = make(name)
    guide.enable(model)
    every = encoded(name, model, processor)
    inputs, bias, seed = split(every)
    given = every if steered else {key: every[key] for key in every if key != "guide_bias"}
    found = guide.influence(model, given, groups=every.groups)
    guide.disable(model).set_attn_implementation("eager")
    wanted = reference_levels(model, name, inputs, seed, bias=bias if steered else None)
    real = inputs["attention_mask"].bool()[:, None, None].expand_as(found.values)
    assert (found.values.double() - wanted)[real].abs().max() <= INFLUENCE
    assert found.groups == ("word", "image")
    assert found.token_ids.tolist() == inputs["input_ids"].tolist()
    # Images are read, and reach further.
    assert (found.values[:, 0, 1] == seed[:, 1]).all()
    assert (found.values[:, -1, 1] > 0).sum() > seed[:, 1].sum()


def test_influence_while_it_generates(name):
    model, processor = make(name)
    guide.enable(model)
    inputs = encoded(name, model, processor)
    text, found = guide.generate_with_influence(
        model, inputs, max_new_tokens=NEW_TOKENS, do_sample=False
    )
    prompt = guide.influence(model, inputs)
    tokens = inputs["input_ids"].shape[1]
    assert (found.values[..., :tokens] - prompt.values).abs().max() <= INFLUENCE
    assert text.shape[1] - 1 == found.values.shape[3]
    guide.disable(model).set_attn_implementation("eager")
    whole = _continued(name, inputs, text[:, :-1])
    wanted = reference_levels(model, name, whole, inputs["guide_seed"], bias=_padded(inputs, whole))
    real = whole["attention_mask"].bool()[:, None, None].expand_as(found.values)
    assert (found.values.double() - wanted)[real].abs().max() <= INFLUENCE


def _padded(inputs, whole):
    missing = whole["input_ids"].shape[1] - inputs["guide_bias"].shape[1]
    return torch.nn.functional.pad(inputs["guide_bias"], (0, missing))


def _continued(name, inputs, ids):
    """The inputs of a text that was continued, for a pass over all of it."""
    whole = split(inputs)[0] | {"input_ids": ids}
    missing = ids.shape[1] - inputs["input_ids"].shape[1]
    # Of PaliGemma, 1 is text that does not see what follows; of the others, 0 is text.
    fills = {
        "attention_mask": 1,
        "token_type_ids": int(name == "paligemma"),
        "mm_token_type_ids": 0,
    }
    for key, fill in fills.items():
        if key in whole:
            whole[key] = torch.nn.functional.pad(whole[key], (0, missing), value=fill)
    if name not in ("qwen2_5_vl", "gemma3"):
        whole["position_ids"] = (whole["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return whole


class TestLayersThatAttendToTheImage:
    """Mllama: the image is no part of the text; a bias on text is exact beside it."""

    @pytest.fixture
    def model_and_inputs(self):
        model, processor = make("mllama")
        texts = ["What is <|image|> the colour?", "Compare <|image|> closely with <|image|> now."]
        pictures = [[picture(12, 10)], [picture(30, 12, 1), picture(9, 20, 2)]]
        inputs = processor(
            text=texts, images=pictures, padding=True, padding_side="left", return_tensors="pt"
        )
        return model, dict(inputs)

    def test_equal_to_eager_attention(self, model_and_inputs):
        model, inputs = model_and_inputs
        marks = torch.rand(inputs["input_ids"].shape) > 0.6
        bias = 2.0 * marks * inputs["attention_mask"]
        plain = models.logits(model, inputs)
        with biased(model, bias):
            wanted = models.logits(model, inputs)
            generated = models.generation(model, inputs)
        unseen = {**inputs, "pixel_values": 1 + inputs["pixel_values"].flip(-1)}
        assert (models.logits(model, unseen) - plain).abs().max() > 0.01 * plain.abs().max()
        guide.enable(model)
        mask = inputs["attention_mask"]
        models.assert_logits_close(models.logits(model, inputs, guide_bias=bias), wanted, mask)
        found = models.generation(model, inputs, guide_bias=bias)
        models.assert_same_generation(found, generated)

    def test_influence(self, model_and_inputs):
        model, inputs = model_and_inputs
        guide.enable(model)
        seed = torch.zeros(2, 1, inputs["input_ids"].shape[1])
        seed[:, :, -2] = 1
        with pytest.raises(UnsupportedModelError, match=r"attend to the image itself; measure"):
            guide.influence(model, {**inputs, "guide_seed": seed})
        with pytest.raises(UnsupportedModelError, match=r"attend to the image itself; measure"):
            guide.generate_with_influence(model, {**inputs, "guide_seed": seed}, max_new_tokens=2)
        text = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        assert guide.influence(model, {**text, "guide_seed": seed}).values.any()
