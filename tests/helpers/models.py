# SPDX-License-Identifier: MIT
"""Tiny random models of many architectures, and a steered eager reference for them.

The reference shares nothing with the product: it runs a model's own eager attention and adds the
bias to the dense mask of every attention module, and it recomputes the whole sequence at each step
instead of using a cache.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from tolerance import MODEL_LOGITS
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM, StaticCache

VOCABULARY = 97
WINDOW = 5
LAYERS = 2
HEADS = 4

# What this version of transformers calls a cache, in the arguments of models and in their outputs.
CACHE = next(
    name
    for name in ("cache", "past_key_values")
    if name in inspect.signature(LlamaForCausalLM.forward).parameters
)

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 128,
    # Large, so that attention is far from uniform and a wrong mask shows.
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
_GROUPED = {"num_key_value_heads": 2}
_SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}

ZOO: dict[str, dict[str, Any]] = {
    "llama": _GROUPED,
    "mistral": {**_GROUPED, "sliding_window": WINDOW},
    "gemma2": {
        **_GROUPED,
        **_SLIDING,
        "head_dim": 8,
        # Small enough to bend the scores, so that the order of cap and bias matters.
        "attn_logit_softcapping": 3.0,
        "query_pre_attn_scalar": 3,
    },
    "gemma3_text": {**_GROUPED, **_SLIDING, "head_dim": 8, "query_pre_attn_scalar": 20},
    "qwen2": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": 8},
    "gpt_oss": {
        **_GROUPED,
        **_SLIDING,
        "head_dim": 8,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
    },
    "gpt2": {"n_inner": 48},
    "gpt_neox": {},
    "phi": {**_GROUPED, "partial_rotary_factor": 0.5},
}
SLIDING = ("mistral", "gemma2", "gemma3_text", "gpt_oss")

# Reworks its mask: dense masks.
DENSE = {"doge": {**_GROUPED, "keep_window_size": 64}}
# Makes a mask for an encoder that it does not have, besides its own.
DECODERS = {
    "bart": {"d_model": 32, "decoder_layers": LAYERS, "decoder_ffn_dim": 48}
    | {"decoder_attention_heads": HEADS, "init_std": 0.3}
}
# Attention is code of their own, which adds its mask.
OWN: dict[str, dict[str, Any]] = {
    "bloom": {"n_layer": LAYERS, "n_head": HEADS},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "gpt_neo": {
        "num_layers": LAYERS,
        "num_heads": HEADS,
        "attention_types": [[["global", "local"], 1]],
        "window_size": WINDOW,
    },
    "xglm": {"d_model": 32, "ffn_dim": 48, "num_layers": LAYERS, "attention_heads": HEADS},
    "megatron-bert": {"is_decoder": True},
    "roformer": {"is_decoder": True},
}
# Attention is code of its own, which does not.
UNSUPPORTED = {"openai-gpt": {"n_layer": LAYERS, "n_head": HEADS, "n_embd": 32}}

_EVERY = {**ZOO, **DENSE, **DECODERS, **OWN, **UNSUPPORTED}


def make(name: str, *, seed: int = 0, **overrides: Any) -> Any:
    """Make a new model, in evaluation mode, under eager attention."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(name, **{**_COMMON, **_EVERY[name], **overrides})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(("sinks", "bias")):
                parameter.normal_()  # zero by default, which would hide a lost sink
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    return model


@cache
def shared(name: str) -> Any:
    """Make a model once, for tests that leave it as they found it."""
    return make(name)


def prompts(rows: int = 2, tokens: int = 9, padding: int = 3, seed: int = 1) -> dict[str, Tensor]:
    """Token ids with left padding in the first row."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(1, VOCABULARY, (rows, tokens), generator=generator)
    attention_mask = torch.ones(rows, tokens, dtype=torch.long)
    attention_mask[0, :padding] = 0
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def marks(rows: int = 2, tokens: int = 9, delta: float = 1.5) -> Tensor:
    """A bias that differs between rows, with a negative part."""
    bias = torch.zeros(rows, tokens)
    bias[0, 4:6] = delta
    bias[-1, 1:3] = delta
    bias[-1, 6] = -delta
    return bias


def bias(rows: int = 2, tokens: int = 9, value: float = 1.0) -> Tensor:
    """The same number for every token."""
    return torch.full((rows, tokens), value)


def logits(model: Any, inputs: dict[str, Any], **arguments: Any) -> Tensor:
    """Logits of one forward pass."""
    with torch.no_grad():
        return model(**inputs, **arguments).logits


def random_strength(rows: int = 2) -> Tensor:
    """A multiplier for every layer and head, some negative."""
    generator = torch.Generator().manual_seed(5)
    return torch.rand(rows, LAYERS, HEADS, generator=generator) * 2 - 0.5


def snapshot(model: Any) -> Any:
    """All that enable() may touch, in a form that can be compared."""
    return (
        model.config._attn_implementation,
        sorted(model.__dict__),
        [sorted(vars(module)) for module in model.modules()],
        [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()],
    )


def attention_modules(model: nn.Module) -> list[nn.Module]:
    """The attention modules of a model, by name, in order."""
    return [m for m in model.modules() if re.search(r"Attention$", type(m).__name__)]


@contextmanager
def steered_eager(model: Any, bias: Tensor, strength: Tensor | None = None) -> Iterator[Any]:
    """Run a model's own eager attention with the bias added to the mask of every module.

    Only for calls without a cache, or with one that keeps all keys and grows: key j is slot j.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")

    def add(layer: int) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            mask = kwargs["attention_mask"]
            copies = mask.shape[0] // bias.shape[0]  # beams and return sequences
            nats = bias.repeat_interleave(copies, 0)[:, None, None, :]
            if strength is not None:
                nats = nats * strength[:, layer].repeat_interleave(copies, 0)[:, :, None, None]
            missing = mask.shape[-1] - bias.shape[1]
            kwargs["attention_mask"] = mask + nn.functional.pad(nats, (0, missing))
            return args, kwargs

        return hook

    handles = [
        module.register_forward_pre_hook(add(layer), with_kwargs=True)
        for layer, module in enumerate(attention_modules(model))
    ]
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()
        model.set_attn_implementation(before)


def reference_logits(
    model: Any, inputs: dict[str, Tensor], bias: Tensor, strength: Tensor | None = None
) -> Tensor:
    """Logits of one forward pass of the reference."""
    with steered_eager(model, bias, strength), torch.no_grad():
        return model(**inputs, use_cache=False).logits


def reference_generation(
    model: Any,
    inputs: dict[str, Tensor],
    bias: Tensor,
    strength: Tensor | None = None,
    **options: Any,
) -> Any:
    """Generate with the reference: eager, and without any cache."""
    with steered_eager(model, bias, strength):
        return generation(model, inputs, use_cache=False, **options)


def generation(model: Any, inputs: dict[str, Tensor], seed: int = 3, **options: Any) -> Any:
    """Generate with fixed lengths and a seed; tokens in ``sequences``, logits per step."""
    torch.manual_seed(seed)
    settings = {"max_new_tokens": 6, "do_sample": False, **options}
    return model.generate(
        **inputs, **settings, return_dict_in_generate=True, output_logits=True, pad_token_id=0
    )


def assert_logits_close(found: Tensor, wanted: Tensor, mask: Tensor | None = None) -> None:
    """Compare float32 logits of real tokens."""
    if mask is not None:
        found, wanted = found[mask.bool()], wanted[mask.bool()]
    scale = wanted.abs().max().item()
    difference = (found - wanted).abs().max().item()
    assert difference <= MODEL_LOGITS * scale, f"logits differ by {difference:.3g} of {scale:.3g}"


def assert_same_generation(found: Any, wanted: Any) -> None:
    """Compare tokens and, at every step, logits."""
    assert found.sequences.tolist() == wanted.sequences.tolist()
    assert len(found.logits) == len(wanted.logits)
    for one, other in zip(found.logits, wanted.logits, strict=True):
        assert_logits_close(one, other)


class Decoder:
    """The loop of generate() with a static cache: masks made outside, the forward compiled."""

    def __init__(self, model, compiled):
        self.model, self.compiled = model, compiled

    @torch.no_grad()
    def generate(self, inputs, bias, strength, steps, **steering):
        tokens, mask = inputs["input_ids"], inputs["attention_mask"]
        cache = StaticCache(config=self.model.config, max_cache_len=tokens.shape[1] + steps)
        logits = []
        for step in range(steps):
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            prepared = self.model.prepare_inputs_for_generation(
                tokens,
                next_sequence_length=tokens.shape[1] if step == 0 else 1,
                **{CACHE: cache},
                attention_mask=mask,
                position_ids=positions,
                is_first_iteration=step == 0,
                guide_bias=bias,
                guide_strength=strength,
                **steering,
            )
            call = self.model if step == 0 else self.compiled
            last = call(**prepared).logits[:, -1]
            logits.append(last)
            tokens = torch.cat([tokens, last.argmax(-1, keepdim=True)], 1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        return logits
