# SPDX-License-Identifier: MIT
"""What `enable` puts in the place of a model's methods for continuous batching."""

from __future__ import annotations

import copy
import inspect
import logging
from typing import Any

from transformers import ContinuousBatchingConfig

from guide_ext.integration.batching.manager import GuidedManager, refuse_unknown
from guide_ext.integration.batching.requests import REQUEST_ARGUMENTS, steered_prompts
from guide_ext.integration.call.arguments import with_steering
from guide_ext.integration.generation import Method
from guide_ext.integration.model.state import state_of

_LOGGER = logging.getLogger(__name__)
_CACHED = "_cached_continuous_batching_manager"


class GuidedInitBatching(Method):
    """Makes a manager that takes steered requests, if the attention of the model is ours."""

    name = "init_continuous_batching"

    @property
    def __signature__(self) -> inspect.Signature:
        """The signature of the method; requests are steered when they are added."""
        return inspect.signature(self._wrapped)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return a manager; see `ContinuousMixin.init_continuous_batching`."""
        model = self._model
        if _why_not(model) or any(name.startswith("guide_") for name in kwargs):
            return self._wrapped(*args, **kwargs)
        cached = getattr(model, _CACHED, None)
        if cached is not None:
            _check_cached(cached)
            return self._wrapped(*args, **kwargs)
        given = inspect.signature(self._wrapped).bind(*args, **kwargs).arguments
        config = given.get("generation_config") or model.generation_config
        batching = given.get("continuous_batching_config")
        if batching is None:
            batching = getattr(config, "continuous_batching_config", None)
        if not isinstance(batching, ContinuousBatchingConfig):
            batching = ContinuousBatchingConfig()
        if config.eos_token_id is None:
            config = copy.deepcopy(config)
            config.eos_token_id = -1  # what continuous batching calls none
        return GuidedManager(model, config, batching, given.get("workload_hints"))


class GuidedGenerateBatch(Method):
    """Passes steering arguments on to the requests, and reports requests that failed."""

    name = "generate_batch"

    @property
    def __signature__(self) -> inspect.Signature:
        """The signature of the method, with the steering arguments that it takes."""
        return with_steering(inspect.signature(self._wrapped), REQUEST_ARGUMENTS)

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Answer a list of prompts; see `ContinuousMixin.generate_batch`."""
        given = {name: kwargs.pop(name, None) for name in REQUEST_ARGUMENTS}
        refuse_unknown(kwargs, "generate_batch()")
        model = self._model
        if all(value is None for value in given.values()):
            return self._wrapped(inputs, *args, **kwargs)
        reason = _why_not(model)
        if reason:
            names = ", ".join(name for name, value in given.items() if value is not None)
            raise ValueError(f"generate_batch() must be called without {names} here, got {reason}")
        _check_cached(getattr(model, _CACHED, None))
        prompts = steered_prompts(model, inputs, given)
        results = self._wrapped(prompts, *args, **kwargs)
        failed = next((result for result in results.values() if result.error is not None), None)
        if failed is not None:
            raise RuntimeError(
                f"all requests must be answered, got an error of {failed.request_id!r}: "
                f"{failed.error}"
            )
        given_config = inspect.signature(self._wrapped).bind(prompts, *args, **kwargs).arguments
        config = given_config.get("generation_config") or model.generation_config
        wanted = len(prompts) * (config.num_return_sequences or 1)
        if not all(prompt.is_taken for prompt in prompts) or len(results) != wanted:
            raise RuntimeError(
                f"steered requests must get all {wanted} answer(s), got {len(results)}; the log of "
                "transformers says what happened"
            )
        return results


def _why_not(model: Any) -> str:
    """Return what keeps requests to a model from being steered, or "" if nothing does."""
    findings = state_of(model).findings
    name = type(model).__name__
    if findings.has_encoder:
        return f"the encoder–decoder {name}; use generate()"
    if findings.implementation != "guide":
        return f"a {name}, which needs masks that continuous batching does not make; use generate()"
    for config in findings.configs:
        if config._attn_implementation != "guide":
            return (
                f"a {name} whose attention was switched to {config._attn_implementation!r}; call "
                "model.set_attn_implementation('guide')"
            )
    return ""


def _check_cached(manager: Any) -> None:
    """Refuse a manager that an earlier call has kept, if it takes no steered requests."""
    if manager is not None and not isinstance(manager, GuidedManager):
        raise ValueError(
            "a model must keep no manager from before it was enabled, or from when its attention "
            "was switched, got a "
            f"{type(manager).__name__}; call model.destroy_cached_continuous_batching_manager()"
        )
