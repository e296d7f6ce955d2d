# SPDX-License-Identifier: MIT
"""Tiny models that read images beside text, each with the processor of its kind; nothing is loaded.

They differ in what a processor makes of one placeholder and in what the model makes of its tokens:

* ``llava``: as many image tokens, causal.
* ``qwen2_5_vl``: as many as the grid of the image has, three axes of positions, a vision tower with
  windows.
* ``gemma3``: text around the image tokens, which see each other: a mask of blocks; sliding windows.
* ``idefics3``: tiles in rows, named by tokens, line breaks between them.
* ``paligemma``: the whole prompt sees all of itself; the processor adds to the text.
* ``mllama``: layers that attend to the image itself, beside those that attend to text.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as tokenizer_models
from tokenizers import processors as post
from torch import nn
from transformers import PreTrainedTokenizerFast
from transformers.processing_utils import ProcessorMixin

pytest.importorskip("PIL", reason="processors of images need Pillow: pip install pillow")

CORPUS = (
    "Describe the picture in French, in two short sentences, and compare it with the other one.",
    "What is the colour of the first picture? Look at it closely; do not guess.",
    "USER ASSISTANT user assistant system model: \n\n",
)
SIDE = 8  # pixels of an image, in models that read images of one size
_TOWER = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": SIDE, "patch_size": 4, "initializer_range": 0.3,
}  # fmt: skip
_TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0,
}  # fmt: skip
_PIXELS = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
CHAT = (
    "{% for m in messages %}{{ m.role }}: {% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'image' %}PLACEHOLDER{% else %}{{ part.text }}"
    "{% endif %}{% endfor %}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def tokenizer(
    *special: str, named: dict[str, str] | None = None, begins: bool = True
) -> PreTrainedTokenizerFast:
    """Train a byte-level tokenizer with some special tokens; `named` are attributes of it, too."""
    words = Tokenizer(tokenizer_models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=340,
            special_tokens=["<pad>", "<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if begins:
        words.post_processor = post.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        extra_special_tokens=named or {},
    )  # fmt: skip
    made.add_special_tokens({"additional_special_tokens": list(special)})
    return made


def _finished(model: nn.Module) -> Any:
    """Make a model ready; gates that let nothing of an image through are opened."""
    model.eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gate"):
                parameter.fill_(0.7)
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    model.set_attn_implementation("eager")
    return model


def llava() -> tuple[Any, ProcessorMixin]:
    words = tokenizer("<image>")
    pictures = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    processor = transformers.LlavaProcessor(
        pictures, words, patch_size=4, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=CHAT.replace("PLACEHOLDER", "<image>"),
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**_TOWER),
        text_config=transformers.LlamaConfig(**_TEXT, vocab_size=len(words)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    return transformers.LlavaForConditionalGeneration(config), processor


class _ImagesOfQwen(transformers.Qwen2_5_VLProcessor):
    """That processor without its part for videos, which needs torchvision."""

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def qwen2_5_vl() -> tuple[Any, ProcessorMixin]:
    outer = "<|vision_start|>", "<|vision_end|>"
    words = tokenizer("<|image_pad|>", "<|video_pad|>", *outer, begins=False)
    pictures = transformers.Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, min_pixels=8 * 8, max_pixels=32 * 32
    )
    placeholder = f"{outer[0]}<|image_pad|>{outer[1]}"
    processor = _ImagesOfQwen(pictures, words, CHAT.replace("PLACEHOLDER", placeholder))
    ids = words.convert_tokens_to_ids
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            **_TEXT, "vocab_size": len(words),
            "rope_parameters": {
                "rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4,
            },
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4,
            "out_hidden_size": 32, "patch_size": 4, "window_size": 16, "fullatt_block_indexes": [1],
            "spatial_merge_size": 2, "initializer_range": 0.3,
        },
        image_token_id=ids("<|image_pad|>"), video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids(outer[0]), vision_end_token_id=ids(outer[1]),
    )  # fmt: skip
    return transformers.Qwen2_5_VLForConditionalGeneration(config), processor


def gemma3() -> tuple[Any, ProcessorMixin]:
    names = {
        "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }  # fmt: skip
    words = tokenizer(named=names)
    pictures = transformers.Gemma3ImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_seq_length=4, **_PIXELS
    )
    processor = transformers.Gemma3Processor(
        pictures, words, image_seq_length=4,
        chat_template=CHAT.replace("PLACEHOLDER", "<start_of_image>"),
    )  # fmt: skip
    ids = words.convert_tokens_to_ids
    config = transformers.Gemma3Config(
        text_config={
            **_TEXT, "vocab_size": len(words), "head_dim": 8, "sliding_window": 7,
            "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 8,
        },
        vision_config=_TOWER, mm_tokens_per_image=4,
        image_token_index=ids(names["image_token"]), boi_token_index=ids(names["boi_token"]),
        eoi_token_index=ids(names["eoi_token"]),
    )  # fmt: skip
    return transformers.Gemma3ForConditionalGeneration(config), processor


def idefics3() -> tuple[Any, ProcessorMixin]:
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    words = tokenizer("<global-img>", *tiles)
    pictures = transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}, **_PIXELS
    )
    processor = transformers.Idefics3Processor(
        pictures, words, image_seq_len=1, chat_template=CHAT.replace("PLACEHOLDER", "<image>")
    )
    config = transformers.Idefics3Config(
        vision_config=_TOWER, scale_factor=2, pad_token_id=0,
        text_config=transformers.LlamaConfig(**_TEXT, vocab_size=len(words)),
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    return transformers.Idefics3ForConditionalGeneration(config), processor


def paligemma() -> tuple[Any, ProcessorMixin]:
    words = tokenizer()
    pictures = transformers.SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}, **_PIXELS)
    pictures.image_seq_length = 4
    processor = transformers.PaliGemmaProcessor(
        pictures, words, chat_template=CHAT.replace("PLACEHOLDER", "<image>")
    )
    config = transformers.PaliGemmaConfig(
        vision_config={**_TOWER, "model_type": "siglip_vision_model", "projection_dim": 32},
        text_config={**_TEXT, "model_type": "gemma", "head_dim": 8, "vocab_size": len(words)},
        image_token_index=words.convert_tokens_to_ids("<image>"), projection_dim=32, hidden_size=32,
    )  # fmt: skip
    return transformers.PaliGemmaForConditionalGeneration(config), processor


def mllama() -> tuple[Any, ProcessorMixin]:
    words = tokenizer("<|image|>", "<|python_tag|>")
    pictures = transformers.MllamaImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, max_image_tiles=4, **_PIXELS
    )
    processor = transformers.MllamaProcessor(
        pictures, words, chat_template=CHAT.replace("PLACEHOLDER", "<|image|>")
    )
    text = {**_TEXT, "num_hidden_layers": 3, "cross_attention_layers": [1]}
    config = transformers.MllamaConfig(
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_global_layers": 1, "attention_heads": 4, "image_size": SIDE, "patch_size": 4,
            "intermediate_layers_indices": [0], "vision_output_dim": 64,
            "supported_aspect_ratios": [
                [1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1],
            ],
        },
        text_config={
            **text, "vocab_size": len(words) - 1, "bos_token_id": 1,
        },
        image_token_index=words.convert_tokens_to_ids("<|image|>"),
    )  # fmt: skip
    return transformers.MllamaForConditionalGeneration(config), processor


MAKERS = {make.__name__: make for make in (llava, qwen2_5_vl, gemma3, idefics3, paligemma, mllama)}


def make(name: str, seed: int = 0) -> tuple[Any, ProcessorMixin]:
    """Make a model, under eager attention, and its processor."""
    torch.manual_seed(seed)
    model, processor = MAKERS[name]()
    return _finished(model), processor


def placeholder(name: str) -> str:
    """Return what stands for an image in a prompt for a model."""
    return {
        "qwen2_5_vl": "<|vision_start|><|image_pad|><|vision_end|>",
        "gemma3": "<start_of_image>",
        "mllama": "<|image|>",
    }.get(name, "<image>")


def picture(width: int = 12, height: int = 10, seed: int = 0) -> Any:
    """A picture of noise."""
    from PIL import Image

    noise = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (height, width, 3), generator=noise, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())
