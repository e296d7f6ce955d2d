# SPDX-License-Identifier: MIT
"""Ways of generating that steering cannot follow: each is an error, and none an unsteered answer.

`generate()` checks steering arguments against the prompt that it is given. Some of its modes write
another prompt inside, run code from elsewhere, or hand the prompt to an engine that knows nothing
of these arguments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from transformers import GenerationMixin
from transformers.generation.continuous_batching import ContinuousMixin

from guide_ext.integration.call.arguments import STEERING_ARGUMENTS
from guide_ext.integration.decoding import CompleteConfig

# The doors to continuous batching, which packs the prompts of many requests into one row.
_BATCHING = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")


def setting_of(name: str, model: Any, kwargs: Mapping[str, Any]) -> Any:
    """Return what `generate()` goes by: its argument, its config's, the model's, or None."""
    given = kwargs.get("generation_config")
    configs = (given,) if isinstance(given, CompleteConfig) else (given, model.generation_config)
    values = (kwargs.get(name), *(getattr(config, name, None) for config in configs))
    return next((value for value in values if value is not None), None)


def check_mode(model: Any, kwargs: Mapping[str, Any]) -> None:
    """Refuse what `generate()` would do to a prompt after its marks were counted.

    Args:
        model: An enabled model.
        kwargs: Arguments of its `generate()`, with steering arguments among them.

    Raises:
        ValueError: If a mode was asked for that steering cannot follow.

    """
    given = ", ".join(name for name in STEERING_ARGUMENTS if kwargs.get(name) is not None)
    if setting_of("token_healing", model, kwargs):
        raise ValueError(
            f"token_healing must be off with {given}, which count the tokens of the prompt, got "
            "True: it cuts the prompt and tokenises it again; pass token_healing=False"
        )
    if setting_of("cache_implementation", model, kwargs) == "paged":
        raise _batching_error("generate(cache_implementation='paged')", given)
    if isinstance(kwargs.get("custom_generate"), str) or kwargs.get("trust_remote_code"):
        raise ValueError(
            f"custom_generate and trust_remote_code must be left out with {given}, got code from "
            "elsewhere that may drop them; pass custom_generate a function of your own"
        )
    if kwargs.get("assistant_tokenizer") is not None:
        raise ValueError(
            f"assistant_tokenizer must be None with {given}, which count the tokens of the model's "
            "own tokenizer, got another one; use an assistant with the same tokenizer"
        )
    own = getattr(type(model), "generate", None)
    if own is not GenerationMixin.generate:
        raise ValueError(
            f"{given} must go to a model with the generate() of transformers' GenerationMixin, got "
            f"a {type(model).__name__} with one of its own, which may change the prompt; "
            "call forward() in a loop"
        )


def refuse_in_continuous_batching() -> None:
    """Let every model refuse steering arguments in continuous batching, enabled or not.

    Its entry points drop any argument that they do not know, and transformers switches the
    attention of a model for it, so that nothing of ours would run. Called when
    `guide_ext.integration` is imported; calls without such arguments go on as ever.
    """
    for name in _BATCHING:
        entry = getattr(ContinuousMixin, name, None)
        if entry is not None and not hasattr(entry, "_guide_refuses"):
            setattr(ContinuousMixin, name, _refusing(name, entry))


def _refusing(name: str, entry: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(entry)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = [key for key, value in kwargs.items() if _is_steering(key) and value is not None]
        if given:
            raise _batching_error(f"{name}()", ", ".join(given))
        return entry(self, *args, **{k: v for k, v in kwargs.items() if not _is_steering(k)})

    checked._guide_refuses = True  # type: ignore[attr-defined]
    return checked


def _is_steering(name: str) -> bool:
    return name.startswith("guide_")


def _batching_error(entry: str, given: str) -> ValueError:
    return ValueError(
        f"{entry} must be called without {given}: continuous batching packs many requests into one "
        "row and cannot be steered; pad the prompts with guide_ext.integration.encode() and call "
        "generate() on an enabled model"
    )
