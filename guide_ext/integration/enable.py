# SPDX-License-Identifier: MIT
"""Prepare a loaded transformers model for steering, and undo that."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

from torch import nn
from transformers import PreTrainedModel

from guide_ext.integration.around_forward import after_forward, before_forward
from guide_ext.integration.batching.entries import GuidedGenerateBatch, GuidedInitBatching
from guide_ext.integration.batching.manager import refuse_running_manager
from guide_ext.integration.call import source
from guide_ext.integration.call.attention import LAYER_ATTRIBUTE
from guide_ext.integration.call.carrier import TablePlace
from guide_ext.integration.generation import GuidedGenerate, PrepareInputs
from guide_ext.integration.model import verify, verify_cache
from guide_ext.integration.model.forward import name_steering
from guide_ext.integration.model.own_attention import examine, has_own_attention
from guide_ext.integration.model.state import (
    MODEL_STATE,
    ModelState,
    forget_compiled_call,
    is_enabled,
)

Model = TypeVar("Model", bound=nn.Module)

_LOGGER = logging.getLogger(__name__)
_METHODS = (GuidedGenerate, PrepareInputs, GuidedInitBatching, GuidedGenerateBatch)


def enable(model: Model) -> Model:
    """Make a model accept ``guide_bias`` and the other steering arguments.

    The arguments are ``guide_bias``, ``guide_strength``, ``guide_share`` and ``guide_seed``, in an
    encoder–decoder also ``guide_decoder_bias`` and ``guide_decoder_seed``, as `encode` returns
    them. Both `forward()` and `generate()` accept them.

    First the model is compared with eager attention on a tiny input. A model that reworks its
    attention mask gets dense masks, which are slower but exact. A model that still differs is
    refused, and so is a model whose steered output with a cache differs from that without. Without
    steering arguments, an enabled model computes the same bits as under
    ``attn_implementation="guide"``. Enable before `torch.compile`. Enabling twice changes nothing.

    The signature of `forward()` names the steering arguments, so that transformers' Trainer keeps
    the columns of a data set that hold them. For that, the model gets a class that is derived from
    its own and has the same name. A model that was never enabled refuses steering arguments in
    `generate()`. Its `forward()` ignores them, as any unknown keyword argument, unless it runs
    under ``attn_implementation="guide"``. Trainer drops them; `SteeringCollator` notices that.

    Args:
        model: A model of transformers, loaded in any way and on any device.

    Returns:
        The same object.

    Raises:
        UnsupportedModelError: If the model cannot be steered exactly; it is left as it was.
        ValueError: If `model` is not a transformers model; or if a part of it, or a model that it
            is a part of, is enabled already.

    Example:
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from guide_ext import integration as guide
        >>> config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=32,
        ...                      num_hidden_layers=2, num_attention_heads=4)
        >>> model = guide.enable(LlamaForCausalLM(config))
        >>> tokens = torch.tensor([[1, 2, 3, 4]])
        >>> bias = torch.tensor([[0.0, 2.0, 2.0, 0.0]])  # nats on the second and third token
        >>> model(tokens, guide_bias=bias).logits.shape
        torch.Size([1, 4, 64])
        >>> new = {"min_new_tokens": 3, "max_new_tokens": 3, "pad_token_id": 0}
        >>> model.generate(tokens, guide_bias=bias, **new).shape
        torch.Size([1, 7])
        >>> _ = guide.disable(model)

    """
    if is_enabled(model):
        return model
    _refuse_other_kinds(model)
    findings = examine(model) if has_own_attention(model) else verify.compare_with_eager(model)
    if findings.adds_to_mask:
        _LOGGER.warning(
            "%s gets the bias in its mask, because its attention is code of its own: without "
            "strengths for layers and heads, shares and Influence",
            type(model).__name__,
        )
    elif findings.implementation != "guide":
        _LOGGER.warning(
            "%s gets dense masks, because it reworks its own: memory grows with the square of the "
            "prompt, and it cannot be steered with a static cache",
            type(model).__name__,
        )
    before = {method.name: model.__dict__.get(method.name) for method in _METHODS}
    state = ModelState(findings, verify.implementations(model), before)
    setattr(model, MODEL_STATE, state)
    try:
        _attach(model, state)
        verify_cache.check_cached_step(model, findings)
    except BaseException:
        disable(model)
        raise
    name_steering(model)
    return model


def disable(model: Model) -> Model:
    """Undo `enable`: remove hooks and steering arguments, restore the attention implementation.

    The class that `enable` gave the model stays, and so does the wrapper of a `forward` that was an
    attribute of the model (accelerate's hooks). So `forward()` refuses steering arguments from now
    on, and nobody can mistake the loss of a disabled model for a steered one. Copies and pickles
    have the old class.

    Args:
        model: An enabled model; any other model is left as it is.

    Returns:
        The same object.

    Raises:
        ValueError: If a manager of continuous batching is running on the model.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from guide_ext import integration as guide
        >>> config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=32,
        ...                      num_hidden_layers=1, num_attention_heads=4)
        >>> model = guide.enable(LlamaForCausalLM(config))
        >>> guide.is_enabled(guide.disable(model))
        False

    """
    state = model.__dict__.get(MODEL_STATE)
    if state is None:
        return model
    refuse_running_manager(model)
    for handle in state.handles:
        handle.remove()
    for name, before in state.methods_before.items():
        model.__dict__.pop(name, None)
        if before is not None:
            model.__dict__[name] = before
    for layer in state.findings.layers:
        layer.__dict__.pop(LAYER_ATTRIBUTE, None)
    verify.restore(state.implementations_before)
    forget_compiled_call(model)
    delattr(model, MODEL_STATE)
    return model


def _refuse_other_kinds(model: object) -> None:
    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"model must be a transformers PreTrainedModel, got {type(model).__name__}; "
            "for a wrapper such as PEFT's, enable the model inside it"
        )
    if any(LAYER_ATTRIBUTE in module.__dict__ for module in model.modules()):
        raise ValueError(
            "model must share no layer with one that is enabled already, got a "
            f"{type(model).__name__} that does; steer that one, or call "
            "guide_ext.integration.disable() on it first"
        )


def _attach(model: Any, state: ModelState) -> None:
    findings = state.findings
    if not findings.adds_to_mask:
        model.set_attn_implementation(findings.implementation)
    count, most = len(findings.layers), findings.num_heads
    for index, layer in enumerate(findings.layers):
        # A layer with fewer heads than the table gets all numbers of its row; the op refuses them.
        own = findings.heads[index]
        here = own.here if own.total == most else slice(most)
        if findings.has_encoder:  # whose decoder may have other heads
            here = own.here
        reads_source = findings.has_encoder and findings.kinds[index] != "decoder"
        setattr(layer, LAYER_ATTRIBUTE, TablePlace(index, count, most, here, reads_source))
    # The first of all hooks, so that the frame has been pushed when a later hook fails.
    state.handles.append(
        model.register_forward_pre_hook(before_forward, prepend=True, with_kwargs=True)
    )
    state.handles.append(model.register_forward_hook(after_forward, always_call=True))
    if findings.has_encoder:
        encoder = model.get_encoder()
        state.handles.append(
            encoder.register_forward_pre_hook(source.before_encoder, prepend=True, with_kwargs=True)
        )
        state.handles.append(encoder.register_forward_hook(source.after_encoder, always_call=True))
    for method in _METHODS:
        if hasattr(model, method.name):
            model.__dict__[method.name] = method(model)
    forget_compiled_call(model)
