# SPDX-License-Identifier: MIT
"""Models that read images beside text: what their outer parts hand to attention is known, too."""

import models
import pytest
import torch
from sweep.compare import Total, adding
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

import guide_ext.integration as guide

IMAGE = 98  # four tokens an image
TEXT = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
TOWER = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": 8, "patch_size": 4,
}  # fmt: skip


def llava():
    text = LlamaConfig(**TEXT, num_attention_heads=4)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**TOWER), text_config=text, image_token_index=IMAGE,
        image_seq_length=4,
    )  # fmt: skip
    return LlavaForConditionalGeneration(config)


def gemma3():
    """Its tokens of an image see each other: a mask of blocks."""
    text = {**TEXT, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    config = Gemma3Config(
        text_config={**text, "sliding_window": 4}, vision_config=TOWER, mm_tokens_per_image=4,
        image_token_index=IMAGE, boi_token_index=97, eoi_token_index=96,
    )  # fmt: skip
    return Gemma3ForConditionalGeneration(config)


@pytest.mark.parametrize("make", [llava, gemma3])
def test_equal_to_eager_attention(make):
    torch.manual_seed(0)
    model = make().eval()
    ids = torch.tensor([[1, 5, IMAGE, IMAGE, IMAGE, IMAGE, 7, 8, 9, 10]])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(1, 3, 8, 8),
    }
    if make is gemma3:
        inputs["token_type_ids"] = (ids == IMAGE).long()
    bias = torch.zeros(1, ids.shape[1])
    bias[0, 1] = bias[0, 7] = 2.0
    model.set_attn_implementation("eager")
    plain = models.logits(model, inputs)
    text = model.model.language_model
    with adding(bias, Total(ids.shape[1]), of=text):
        wanted = models.logits(model, inputs, use_cache=False)
    guide.enable(model)
    models.assert_logits_close(models.logits(model, inputs), plain)
    models.assert_logits_close(models.logits(model, inputs, guide_bias=bias), wanted)
    assert (wanted - plain).abs().max() > 0.01 * plain.abs().max()
    settings = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    cached = model.generate(**inputs, guide_bias=bias, **settings)
    whole = model.generate(**inputs, guide_bias=bias, use_cache=False, **settings)
    assert cached.tolist() == whole.tolist()
