# SPDX-License-Identifier: MIT
"""How steering reaches every step of `generate()`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from guide_ext.integration import arguments
from guide_ext.integration.frame import Frame, keeping, using
from guide_ext.integration.state import is_enabled, state_of, table_size


class _Method:
    """Stand-in for a method of one model, found on the model and not on its class.

    An object and not a closure, so that a copied or pickled model calls itself and not the first.
    """

    name: str

    def __init__(self, model: Any) -> None:
        """Stand in for the method of `model`."""
        self._model = model

    @property
    def _wrapped(self) -> Callable[..., Any]:
        """What stood there before: somebody else's stand-in, or the method of the class."""
        before: Callable[..., Any] | None = state_of(self._model).methods_before[self.name]
        if before is not None:
            return before
        method: Callable[..., Any] = getattr(type(self._model), self.name).__get__(self._model)
        return method

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


class Generate(_Method):
    """Checks the steering arguments of `generate()` before anything runs.

    Here the length of the prompt is known, and looking at values waits for the device only once.
    """

    name = "generate"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Generate; see `GenerationMixin.generate`."""
        bias, strength = kwargs.get("guide_bias"), kwargs.get("guide_strength")
        arguments.check_companions(bias, strength, [])
        if bias is not None:
            findings = state_of(self._model).findings
            arguments.check_implementation(findings.configs, findings.implementation)
            prompt = args or (kwargs.get("inputs"),)
            rows, tokens = arguments.input_size(prompt, kwargs)
            mask = kwargs.get("attention_mask")
            arguments.check_own_mask(mask)
            if isinstance(mask, Tensor):
                tokens = mask.shape[1]  # counts what is in a given cache, too
            has_cache = kwargs.get("past_key_values") is not None
            bias = arguments.check_bias(bias, rows)
            arguments.check_tokens(bias, tokens, at_most=has_cache)
            if strength is not None:
                strength = arguments.check_strength(strength, rows, *table_size(self._model))
            if mask is None and not has_cache:
                mask = self._implied_mask(args, kwargs)
            arguments.check_left_padding(mask)
            arguments.check_values(bias, strength)
            assistant = kwargs.get("assistant_model")
            if assistant is not None and not is_enabled(assistant):
                raise ValueError(
                    "assistant_model must be enabled too when guide_bias is given, got a "
                    f"{type(assistant).__name__} that is not; "
                    "call guide_ext.integration.enable(assistant_model)"
                )
        with keeping():
            return self._wrapped(*args, **kwargs)

    def _implied_mask(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """Make the mask that `generate()` takes for granted where a prompt has padding tokens."""
        prompt = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs"))
        configs = (kwargs.get("generation_config"), self._model.generation_config)

        def setting(name: str) -> Any:
            values = (kwargs.get(name), *(getattr(config, name, None) for config in configs))
            return next((value for value in values if value is not None), None)

        padding, end = setting("pad_token_id"), setting("eos_token_id")
        ends = end if isinstance(end, list | tuple) else [end]
        if not isinstance(prompt, Tensor) or padding is None or padding in ends:
            return None
        return prompt.ne(padding)


class PrepareInputs(_Method):
    """Takes the steering arguments through every step of `generate()`.

    `generate()` accepts the keyword arguments that the signature of this method names, repeats
    their rows for beams and return sequences, and passes them on at every step. With a static cache
    transformers makes the masks here, outside the compiled forward; then the bias travels in them.
    """

    name = "prepare_inputs_for_generation"

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
        if frame.bias is not None and not frame.applied:
            self._hand_on(inputs, frame.bias, frame.strength)
        return inputs

    def _hand_on(self, inputs: dict[str, Any], bias: Tensor, strength: Tensor | None) -> None:
        """Give the steering arguments to the forward call that will make the masks."""
        mask = inputs.get("attention_mask")
        if isinstance(mask, dict) or getattr(mask, "ndim", 2) == 4:
            raise ValueError(
                f"cache_implementation must be dynamic to steer {type(self._model).__name__}, "
                "which reworks its own masks, got a static cache"
            )
        if inputs.get("past_key_values") is None:
            # Without a cache every step is a whole sequence, and new tokens have no bias.
            missing = max(arguments.input_size((), inputs)[1] - bias.shape[1], 0)
            bias = F.pad(bias, (0, missing))
        inputs["guide_bias"] = bias
        if strength is not None:
            inputs["guide_strength"] = strength
