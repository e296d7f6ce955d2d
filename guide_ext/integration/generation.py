# SPDX-License-Identifier: MIT
"""How steering reaches every step of `generate()`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from guide_ext.integration import arguments
from guide_ext.integration.frame import Frame, using
from guide_ext.integration.state import state_of, table_size

PREPARE = "prepare_inputs_for_generation"


class PrepareInputs:
    """Stand-in for ``model.prepare_inputs_for_generation`` that knows the steering arguments.

    `generate()` accepts the keyword arguments that the signature of this callable names, repeats
    their rows for beams and return sequences, and passes them on at every step. With a static cache
    transformers makes the masks here, outside the compiled forward; then the bias travels in them.
    An object and not a closure, so that a copied or pickled model calls itself and not the first.
    """

    def __init__(self, model: Any) -> None:
        """Stand in for the method of `model`."""
        self._model = model

    @property
    def __signature__(self) -> inspect.Signature:
        """The signature of the method, with the steering arguments."""
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
        frame = Frame(configs=state_of(model).findings.configs)
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
            arguments.check_length(
                bias, seen, arguments.input_size((), inputs)[1], is_first=is_first
            )
        if not frame.applied:
            self._hand_on(inputs, bias, strength, is_first=is_first)
        return inputs

    @property
    def _wrapped(self) -> Callable[..., dict[str, Any]]:
        before: Callable[..., dict[str, Any]] | None = state_of(self._model).prepare_before
        if before is not None:
            return before
        return getattr(type(self._model), PREPARE).__get__(self._model)  # type: ignore[no-any-return]

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
            missing = max(arguments.input_size((), inputs)[1] - bias.shape[1], 0)
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
