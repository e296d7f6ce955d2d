# SPDX-License-Identifier: MIT
"""Carry steering arguments to every step of `generate()`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from guide_ext.integration.call import arguments, caches, reuse, source
from guide_ext.integration.call.arguments import DECODER_BIAS, DECODER_SEED
from guide_ext.integration.call.frame import Frame, current, using
from guide_ext.integration.influence.hooks import (
    is_requested,
    state_of_call,
    two_texts_of_generation,
)
from guide_ext.integration.model.state import is_enabled, state_of, strength_size
from guide_ext.integration.modes import check_mode, first_token, setting_of


class Method:
    """Replaces a method of one model, as an attribute of the model and not of its class.

    It is an object and not a closure, so that a copied or pickled model calls itself and not the
    model that it was copied from.
    """

    name: str

    def __init__(self, model: Any) -> None:
        self._model = model

    @property
    def _wrapped(self) -> Callable[..., Any]:
        """The replaced method: an attribute that the model had before, or that of the class."""
        before: Callable[..., Any] | None = state_of(self._model).methods_before[self.name]
        if before is not None:
            return before
        method: Callable[..., Any] = getattr(type(self._model), self.name).__get__(self._model)
        return method

    @property
    def __signature__(self) -> inspect.Signature:
        """The signature of the method, with the steering arguments."""
        names = arguments.steering_arguments(self._model)
        return arguments.with_steering(inspect.signature(self._wrapped), names)


class GuidedGenerate(Method):
    """Checks the steering arguments of `generate()` before anything runs.

    Here the length of the prompt is known, and checking the values waits for the device only once.
    """

    name = "generate"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Generate; see `GenerationMixin.generate`."""
        # A generation_config, say, may come by its place.
        names = list(inspect.signature(self._wrapped).parameters)
        kwargs = {**dict(zip(names[1:], args[1:], strict=False)), **kwargs}
        args = args[:1]
        if state_of(self._model).findings.has_encoder:
            return self._generate_encoder_decoder(args, kwargs)
        share = kwargs.get("guide_share")
        if share is not None:
            kwargs["guide_bias"] = arguments.bias_beside(share, kwargs.get("guide_bias"))
        arguments.check_companions(kwargs.get("guide_bias"), kwargs.get("guide_strength"), [])
        # The generate() of a main model calls that of its assistant with its own bias, which covers
        # the prompt and has been checked, and with a text that has grown.
        outer = current()
        is_assistant = outer is not None and outer.is_generation
        is_steered = kwargs.get("guide_bias") is not None
        if is_steered or kwargs.get("guide_seed") is not None:
            check_mode(self._model, kwargs)
        if is_steered and not is_assistant:
            self._check(args, kwargs)
        configs = state_of(self._model).findings.configs
        # Frames of calls that are nested in this one find it as their outer frame.
        with using(Frame(configs=configs, is_generation=is_steered)) as frame:
            output = self._wrapped(*args, **kwargs)
        if is_steered and not frame.has_steps:
            raise RuntimeError(_no_steps(self._model))
        return output

    def _generate_encoder_decoder(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Generate with an encoder–decoder. Its encoder runs once, in the frame made here."""
        model, findings = self._model, state_of(self._model).findings
        source.refuse_others(kwargs)
        given = (kwargs.get("guide_bias"), kwargs.get(DECODER_BIAS))
        some = next((bias for bias in given if bias is not None), None)
        strength = kwargs.get("guide_strength")
        arguments.check_companions(some, strength, [])
        is_measured = is_requested(model) and kwargs.get("guide_seed") is not None
        if not is_measured:  # the marks to measure are nobody's matter then
            kwargs = {k: v for k, v in kwargs.items() if k not in ("guide_seed", DECODER_SEED)}
        if some is None and not is_measured:
            return self._wrapped(*args, **kwargs)
        check_mode(model, kwargs)
        arguments.check_implementation(findings.configs, findings.implementation)
        inputs = args[0] if args else kwargs.get("inputs")
        start = first_token(model, kwargs)
        bias, decoder_bias = source.check_generation(
            model, kwargs, inputs, start, partial(setting_of, model=model, kwargs=kwargs)
        )
        if strength is not None and some is not None:
            strength = arguments.check_strength(strength, len(some), *strength_size(model))
        for own in (bias, decoder_bias):
            if own is not None:
                arguments.check_values(own, strength)
        frame = Frame(
            configs=findings.configs, is_generation=True, has_encoder=True, source_bias=bias,
            strength=strength, encoder_ran=bias is not None,
            influence=two_texts_of_generation(model, kwargs.get("guide_seed")),
        )  # fmt: skip
        with using(frame):
            output = self._wrapped(*args, **kwargs)
        if not frame.has_steps:
            raise RuntimeError(_no_steps(model))
        return output

    def _check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        findings = state_of(self._model).findings
        arguments.check_implementation(findings.configs, findings.implementation)
        rows, tokens = arguments.input_size(args or (kwargs.get("inputs"),), kwargs)
        mask = kwargs.get("attention_mask")
        arguments.check_own_mask(mask)
        # A given cache may hold the beginning of the text. Then the mask covers the whole text,
        # whether or not the input does. Without a mask, transformers takes the input as the whole.
        caches.check_cache(findings.cache_argument, kwargs)
        seen = _seen(caches.cache_of(findings.cache_argument, kwargs))
        whole = mask.shape[1] if isinstance(mask, Tensor) else tokens
        bias, strength = arguments.check_bias(kwargs["guide_bias"], rows), None
        arguments.check_tokens(bias, max(whole - seen, 0), min(seen, whole))
        if kwargs.get("guide_strength") is not None:
            size = strength_size(self._model)
            strength = arguments.check_strength(kwargs["guide_strength"], rows, *size)
        if mask is None and not seen:
            mask = self._implied_mask(args, kwargs)
        arguments.check_left_padding(mask)
        arguments.check_values(bias, strength)
        if kwargs.get("guide_share") is not None:
            arguments.check_share_values(arguments.check_share(kwargs["guide_share"], bias))
        assistant = kwargs.get("assistant_model")
        if assistant is not None and not is_enabled(assistant):
            raise ValueError(
                "assistant_model must be enabled too when guide_bias is given, got a "
                f"{type(assistant).__name__} that is not; "
                "call guide_ext.integration.enable(assistant_model)"
            )

    def _implied_mask(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """Return the mask that `generate()` will infer from padding tokens in the prompt."""
        prompt = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs"))
        padding = setting_of("pad_token_id", self._model, kwargs)
        end = setting_of("eos_token_id", self._model, kwargs)
        ends = end if isinstance(end, list | tuple) else [end]
        if not isinstance(prompt, Tensor) or padding is None or padding in ends:
            return None
        return prompt.ne(padding)


class PrepareInputs(Method):
    """Carries the steering arguments through every step of `generate()`.

    `generate()` accepts the keyword arguments that the signature of this method names, repeats
    their rows for beams and return sequences, and passes them to this method at every step. With a
    static cache, transformers makes the masks here, outside the compiled forward, and the masks
    carry the bias.

    At every step the bias is that of the whole prompt. It is longer than the text so far while a
    prompt is read in chunks, and shorter once the model has written a token.
    """

    name = "prepare_inputs_for_generation"

    def __call__(
        self,
        input_ids: Tensor,
        *args: Any,
        guide_bias: Tensor | None = None,
        guide_strength: Tensor | None = None,
        guide_share: Tensor | None = None,
        guide_seed: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Prepare the inputs of one step; see `GenerationMixin.prepare_inputs_for_generation`."""
        model = self._model
        findings = state_of(model).findings
        if findings.has_encoder:
            seeds = {"guide_seed": guide_seed, DECODER_SEED: kwargs.pop(DECODER_SEED, None)}
            return self._prepare_encoder_decoder(
                input_ids, args, guide_bias, guide_strength, seeds, kwargs
            )
        frame = Frame(configs=findings.configs, adds_to_mask=findings.adds_to_mask)
        originals = (guide_bias, guide_strength, guide_share)
        guide_bias = arguments.bias_beside(guide_share, guide_bias)
        arguments.check_companions(guide_bias, guide_strength, [])
        if guide_share is not None:
            frame.share = arguments.check_share(guide_share, guide_bias)
        if guide_bias is not None:
            frame.bias = arguments.check_bias(guide_bias, input_ids.shape[0])
            if guide_strength is not None:
                size = strength_size(model)
                frame.strength = arguments.check_strength(guide_strength, len(input_ids), *size)
        outer = current()
        in_generate = outer is not None and outer.is_generation
        if outer is not None:
            outer.has_steps = True
        if frame.bias is not None and kwargs.get("is_first_iteration") and not in_generate:
            arguments.check_values(frame.bias, frame.strength)  # called from a loop of a user
        if not torch.compiler.is_compiling():
            reuse.go_on(
                caches.cache_of(findings.cache_argument, kwargs),
                reuse.filling(frame.bias, frame.strength, frame.share, *originals),
                outer if in_generate else None,
            )
        with using(frame):
            inputs: dict[str, Any] = self._wrapped(input_ids, *args, **kwargs)
        if frame.bias is not None and not frame.applied:
            self._hand_on(inputs, frame.bias, frame.strength, frame.share)
        elif frame.applied and outer is not None:
            outer.masks = inputs.get("attention_mask")
            outer.folded_lengths = frame.folded_lengths
        # Done here, outside a compiled forward: make room for the Influence of this step.
        state_of_call(model, guide_seed, (), inputs)
        if guide_seed is not None and caches.cache_of(findings.cache_argument, inputs) is None:
            inputs["guide_seed"] = guide_seed
        return inputs

    def _prepare_encoder_decoder(
        self,
        input_ids: Tensor,
        args: tuple[Any, ...],
        bias: Tensor | None,
        strength: Tensor | None,
        seeds: dict[str, Tensor | None],
        kwargs: dict[str, Any],
    ) -> dict[str, Any]:
        """Prepare the inputs of one step of an encoder–decoder, whose call makes its masks."""
        decoder_bias = kwargs.pop(DECODER_BIAS, None)
        outer = current()
        if outer is not None:
            outer.has_steps = True
        inputs: dict[str, Any] = self._wrapped(input_ids, *args, **kwargs)
        if decoder_bias is not None:
            slots = input_ids.shape[1]
            decoder_bias = F.pad(decoder_bias, (0, max(slots - decoder_bias.shape[1], 0)))
        steering = {"guide_bias": bias, DECODER_BIAS: decoder_bias, "guide_strength": strength}
        steering |= seeds
        inputs |= {name: value for name, value in steering.items() if value is not None}
        if outer is not None and outer.is_generation:
            outer.handed_on = decoder_bias if bias is None else bias
        return inputs

    def _hand_on(
        self,
        inputs: dict[str, Any],
        bias: Tensor,
        strength: Tensor | None,
        share: Tensor | None,
    ) -> None:
        """Pass the steering arguments on to the forward call, which will make the masks."""
        mask = inputs.get("attention_mask")
        if isinstance(mask, dict) or getattr(mask, "ndim", 2) == 4:
            raise ValueError(
                f"cache_implementation must be dynamic to steer {type(self._model).__name__}, "
                "which reworks its own masks, got a static cache"
            )
        # Exactly the slots of this step: 0 for new tokens, and nothing for later chunks.
        name = state_of(self._model).findings.cache_argument
        caches.check_cache(name, inputs)
        seen = caches.seen_tokens(caches.cache_of(name, inputs))
        if seen is not None:
            slots = seen + arguments.input_size((), inputs)[1]
            missing = max(slots - bias.shape[1], 0)
            bias = F.pad(bias, (0, missing))[:, :slots]
            share = None if share is None else F.pad(share, (0, missing))[:, :slots]
        inputs["guide_bias"] = bias
        if share is not None:
            inputs["guide_share"] = share
        if strength is not None:
            inputs["guide_strength"] = strength
        generation = current()
        if generation is not None and generation.is_generation:
            generation.handed_on = bias


def _no_steps(model: Any) -> str:
    return (
        "guide_bias must reach the steps of generate(), got a generation that took none of "
        f"{type(model).__name__}'s own, so its output is not steered; leave custom_generate out"
    )


def _seen(cache: Any) -> int:
    """Return the number of slots in a cache; this may wait for the device, once per prompt."""
    return int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else 0
