# SPDX-License-Identifier: MIT
"""Answers whose forward pass is compiled: one graph for all their steps, marks and strengths.

A graph is made for tensors of one shape. So an answer is generated alone, with a cache that has as
many slots as prompt and answer together may take, whatever they do take.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import CompileConfig, StaticCache
from transformers.cache_utils import StaticLayer

from guide_ext.integration.decoding import decoding_options
from guide_ext.integration.inputs import Inputs
from guide_ext.integration.model.state import state_of
from guide_ext.support.values import is_int


class CompiledSteps:
    """Lets ``generate`` take compiled steps, under ``torch.inference_mode()``.

    The first answer compiles, which takes minutes. Prompts are read uncompiled.

    Args:
        model: An enabled decoder.
        slots: Most tokens of a prompt and its answer together.
        backend: As for `torch.compile`.

    Raises:
        ValueError: If `slots` is not a whole number from 2, or the model cannot be compiled so that
            one graph serves all steps.

    Example:
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> steps = CompiledSteps(model, 64, backend="eager")
        >>> inputs = guide.encode(model, tokenizer, "The <!!->cat<-!!> sleeps", delta=2.0)
        >>> how = decoding_options(model, inputs["input_ids"].shape[1], 4, 0.0)
        >>> plain = model.generate(**inputs, **how)
        >>> with torch.inference_mode():
        ...     bool((model.generate(**inputs, **steps.added_to(how)) == plain).all())
        True

    """

    def __init__(self, model: Any, slots: int, *, backend: str = "inductor") -> None:
        if not is_int(slots) or slots < 2:
            raise ValueError(f"slots must be a whole number from 2, got {slots!r}")
        self._model, self.slots = model, slots
        self._name = state_of(model).findings.cache_argument or ""
        self._check()
        # Without CUDA graphs, which inductor keeps by thread: nobody has tried them here.
        self._config = CompileConfig(fullgraph=True, dynamic=False, backend=backend, mode="default")
        self._config._compile_all_devices = True

    def added_to(self, how: dict[str, Any]) -> dict[str, Any]:
        """Return arguments of ``generate`` for one prompt, with an empty cache.

        Args:
            how: What `decoding_options` returned; its settings are changed.

        """
        how["generation_config"].compile_config = self._config
        with torch.inference_mode():  # tensors of another mode would be another graph
            return {**how, self._name: self._cache()}

    def warm_up(self, inputs: Inputs) -> None:
        """Compile, in the thread and under the mode of the answers that follow.

        Args:
            inputs: Any prompt of one row, with at least three slots to spare.

        """
        how = decoding_options(self._model, inputs["input_ids"].shape[1], 3, 0.0)
        how["generation_config"].eos_token_id = None  # the second token may be the end of a text
        with torch.inference_mode():
            self._model.generate(**inputs, **self.added_to(how))

    def _cache(self) -> StaticCache:
        config = self._model.config.get_text_config(decoder=True)
        return StaticCache(config=config, max_cache_len=self.slots)

    def _check(self) -> None:
        """Check that one graph serves all steps.

        Raises:
            ValueError: If it does not.

        """
        model, reason = self._model, None
        if model.config.is_encoder_decoder:
            reason = "has two texts"
        elif not self._name or not model._can_compile_fullgraph:
            reason = "cannot be compiled with a static cache"
        elif "llama4" in model.config.model_type:
            reason = "is run uncompiled by transformers"
        elif getattr(model, "hf_quantizer", None) is not None:
            reason = "is quantized"
        elif len(set(getattr(model, "hf_device_map", {}).values())) > 1:
            reason = "lies on several devices"
        elif any(type(layer) is not StaticLayer for layer in self._cache().layers):
            reason = "has layers whose cache slides, or is no cache of keys and values"
        if reason is not None:
            raise ValueError(
                "a model must be one whose steps can be one graph to be compiled, got a "
                f"{type(model).__name__}, which {reason}; leave --compile out"
            )
