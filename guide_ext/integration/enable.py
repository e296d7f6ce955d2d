# SPDX-License-Identifier: MIT
"""Prepare a loaded transformers model for steering, and put it back."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from guide_ext.integration import arguments, verify
from guide_ext.integration.attention import LAYER_ATTRIBUTE
from guide_ext.integration.frame import Frame, pop, push, using

Model = TypeVar("Model", bound=nn.Module)

_STATE = "_guide_state"
_PREPARE = "prepare_inputs_for_generation"


@dataclass
class State:
    """What `enable` did to a model, kept on the model so that copies of it take it along."""

    findings: verify.Findings
    implementations_before: list[tuple[Any, Any]]
    prepare_before: Any = None
    handles: list[RemovableHandle] = field(default_factory=list)


def enable(model: Model) -> Model:
    """Let a model take ``guide_bias`` and ``guide_strength`` in `forward()` and `generate()`.

    The model is compared with eager attention on a tiny input first. A model that reworks its
    attention mask gets dense masks (slower, exact); a model that still differs is refused. Without
    steering arguments an enabled model computes what it computes under
    ``attn_implementation="guide"``, bit for bit. Enable before `torch.compile`. Enabling twice does
    nothing more.

    Args:
        model: A decoder-only model of transformers, loaded in any way and on any device.

    Returns:
        The same object.

    Raises:
        UnsupportedModelError: If the model cannot be steered exactly; it is left as it was.
        ValueError: If `model` is not a transformers model.

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
        >>> model.generate(tokens, guide_bias=bias, max_new_tokens=3, pad_token_id=0).shape
        torch.Size([1, 7])
        >>> _ = guide.disable(model)

    """
    if is_enabled(model):
        return model
    _refuse_other_kinds(model)
    findings = verify.calibrate(model)
    state = State(findings, verify.implementations(model), model.__dict__.get(_PREPARE))
    setattr(model, _STATE, state)
    try:
        _attach(model, state)
    except BaseException:
        disable(model)
        raise
    return model


def disable(model: Model) -> Model:
    """Undo `enable`: hooks, keyword arguments and the attention implementation of before.

    Args:
        model: An enabled model; any other is left alone.

    Returns:
        The same object.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from guide_ext import integration as guide
        >>> config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=32,
        ...                      num_hidden_layers=1, num_attention_heads=4)
        >>> model = guide.enable(LlamaForCausalLM(config))
        >>> guide.is_enabled(guide.disable(model))
        False

    """
    state = model.__dict__.get(_STATE)
    if state is None:
        return model
    for handle in state.handles:
        handle.remove()
    if state.prepare_before is not None:
        model.__dict__[_PREPARE] = state.prepare_before
    else:
        model.__dict__.pop(_PREPARE, None)
    for layer in state.findings.layers:
        layer.__dict__.pop(LAYER_ATTRIBUTE, None)
    verify.restore(state.implementations_before)
    _forget_compiled_call(model)
    delattr(model, _STATE)
    return model


def is_enabled(model: nn.Module) -> bool:
    """Say whether `enable` prepared this model.

    Args:
        model: Any module.

    Example:
        >>> import torch
        >>> from guide_ext import integration as guide
        >>> guide.is_enabled(torch.nn.Linear(1, 1))
        False

    """
    return _STATE in model.__dict__


def table_size(model: nn.Module) -> tuple[int, int]:
    """Return (layers, heads) of the strength table of an enabled model.

    Layers count the attention layers that steering reaches, in the order of their calls.

    Args:
        model: An enabled model.

    Raises:
        ValueError: If the model is not enabled.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from guide_ext import integration as guide
        >>> config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=32,
        ...                      num_hidden_layers=2, num_attention_heads=4)
        >>> guide.table_size(guide.enable(LlamaForCausalLM(config)))
        (2, 4)

    """
    if not is_enabled(model):
        raise ValueError(
            f"model must be enabled, got a {type(model).__name__} that is not; "
            "call guide_ext.integration.enable(model) first"
        )
    findings = _state(model).findings
    return len(findings.layers), findings.num_heads


def _refuse_other_kinds(model: object) -> None:
    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"model must be a transformers PreTrainedModel, got {type(model).__name__}; "
            "for a wrapper such as PEFT's, enable the model inside it"
        )
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise verify.UnsupportedModelError(
            f"model must be decoder-only, got the encoder-decoder model {name}"
        )
    if not model._can_set_attn_implementation():
        raise verify.UnsupportedModelError(
            f"model must use the attention interface of transformers, got {name}, which computes "
            "attention in code of its own and cannot be steered"
        )


def _attach(model: Any, state: State) -> None:
    findings = state.findings
    model.set_attn_implementation(findings.implementation)
    for index, layer in enumerate(findings.layers):
        setattr(layer, LAYER_ATTRIBUTE, (index, len(findings.layers), findings.num_heads))
    state.handles = [
        # First of all hooks, so that whatever fails later finds the frame pushed.
        model.register_forward_pre_hook(_before_forward, prepend=True, with_kwargs=True),
        model.register_forward_hook(_after_forward, always_call=True),
    ]
    if hasattr(model, _PREPARE):
        model.__dict__[_PREPARE] = PrepareInputs(model)
    _forget_compiled_call(model)


def _forget_compiled_call(model: nn.Module) -> None:
    """Drop what generate() compiled: dynamo would not notice that hooks have come or gone."""
    model.__dict__.pop("_compiled_call", None)


def _state(model: nn.Module) -> State:
    state: State = model.__dict__[_STATE]
    return state


def _before_forward(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Move the steering arguments of one call into its frame."""
    findings = _state(model).findings
    frame = Frame(configs=findings.configs)
    push(frame)  # before the checks: _after_forward pops it if one of them raises
    bias = kwargs.pop("guide_bias", None)
    strength = kwargs.pop("guide_strength", None)
    unknown = [name for name in kwargs if name.startswith("guide_")]
    arguments.check_companions(bias, strength, unknown)
    if bias is None:
        return args, kwargs
    arguments.check_own_mask(kwargs.get("attention_mask", args[1] if len(args) > 1 else None))
    rows, tokens = _input_size(args, kwargs)
    bias = arguments.check_bias(bias, rows)
    if kwargs.get("past_key_values") is None and bias.shape[1] != tokens:
        raise ValueError(
            f"guide_bias must be [batch, tokens] = [{rows}, {tokens}], aligned with the input, "
            f"got shape {list(bias.shape)}"
        )
    if strength is not None:
        strength = arguments.check_strength(strength, rows, *table_size(model))
    # One query is a decoding step, whose bias was looked at with the prompt.
    if tokens > 1 and not torch.compiler.is_compiling():
        arguments.check_values(bias, strength)
    frame.bias, frame.strength = bias, strength
    return args, kwargs


def _after_forward(model: nn.Module, args: tuple[Any, ...], output: object) -> None:
    """Drop the frame, and never let a bias be lost in silence."""
    frame = pop()
    failed = output is None
    if not failed and frame is not None and frame.bias is not None and not frame.applied:
        raise RuntimeError(
            "guide_bias never reached the attention of this call, so its output is not steered. "
            "A part of the model was compiled or replaced on its own; compile the whole model "
            "after enable(), or use a model that makes its masks itself"
        )


def _input_size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int]:
    """Return (rows, tokens) of the input of a forward call."""
    for source in (args[0] if args else None, kwargs.get("input_ids"), kwargs.get("inputs_embeds")):
        if isinstance(source, Tensor):
            return source.shape[0], source.shape[1]
    raise ValueError("input_ids or inputs_embeds must be given with guide_bias, got neither")


class PrepareInputs:
    """Stand-in for ``model.prepare_inputs_for_generation`` that knows the steering arguments.

    `generate()` accepts the keyword arguments that the signature of this callable names, repeats
    their rows for beams and return sequences, and passes them on at every step. With a static cache
    transformers makes the masks here, outside the compiled forward; then the bias travels in them.
    An object and not a closure, so that a copied or pickled model calls itself and not the first.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    @property
    def __signature__(self) -> inspect.Signature:
        signature = inspect.signature(self._wrapped)
        parameters = list(signature.parameters.values())
        rest = [p for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD]
        named = [p for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]
        own = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
            for name in arguments.STEERING_ARGUMENTS
        ]
        return signature.replace(parameters=[*named, *own, *rest])

    def __call__(
        self,
        input_ids: Tensor,
        *args: Any,
        guide_bias: Tensor | None = None,
        guide_strength: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Prepare the inputs of one step; see `GenerationMixin.prepare_inputs_for_generation`."""
        model = self._model
        frame = Frame(configs=_state(model).findings.configs)
        arguments.check_companions(guide_bias, guide_strength, [])
        if guide_bias is not None:
            frame.bias = arguments.check_bias(guide_bias, input_ids.shape[0])
            if guide_strength is not None:
                size = table_size(model)
                frame.strength = arguments.check_strength(guide_strength, len(input_ids), *size)
        with using(frame):
            inputs: dict[str, Any] = self._wrapped(input_ids, *args, **kwargs)
        bias, strength = frame.bias, frame.strength
        if bias is None:
            return inputs
        is_first = bool(kwargs.get("is_first_iteration"))
        if is_first:
            arguments.check_left_padding(kwargs.get("attention_mask"))
            arguments.check_values(bias, strength)
        seen = _length(inputs.get("past_key_values"), wait=is_first)
        if seen is not None:
            arguments.check_length(bias, seen, _input_size((), inputs)[1], is_first=is_first)
        if not frame.applied:
            self._hand_on(inputs, bias, strength, is_first=is_first)
        return inputs

    @property
    def _wrapped(self) -> Callable[..., dict[str, Any]]:
        before: Callable[..., dict[str, Any]] | None = _state(self._model).prepare_before
        if before is not None:
            return before
        return getattr(type(self._model), _PREPARE).__get__(self._model)  # type: ignore[no-any-return]

    def _hand_on(
        self, inputs: dict[str, Any], bias: Tensor, strength: Tensor | None, *, is_first: bool
    ) -> None:
        """Give the steering arguments to the forward call that will make the masks."""
        mask = inputs.get("attention_mask")
        if isinstance(mask, dict) or getattr(mask, "ndim", 2) == 4:
            raise ValueError(
                f"cache_implementation must be dynamic to steer {type(self._model).__name__}, "
                "which reworks its own masks, got a static cache"
            )
        if inputs.get("past_key_values") is None and not is_first:
            # Without a cache every step is a whole sequence, and new tokens have no bias.
            missing = max(_input_size((), inputs)[1] - bias.shape[1], 0)
            bias = F.pad(bias, (0, missing))
        inputs["guide_bias"] = bias
        if strength is not None:
            inputs["guide_strength"] = strength


def _length(cache: Any, *, wait: bool) -> int | None:
    """Tokens in a cache. Static caches count on the device; None unless `wait` for it."""
    if cache is None:
        return 0
    length = cache.get_seq_length()
    return int(length) if wait or not isinstance(length, Tensor) else None
