# SPDX-License-Identifier: MIT
"""Refuse modes of generation that cannot be steered, so that none gives an unsteered answer.

Steering arguments are checked against the prompt that `generate()` is given. Some of its modes
rewrite that prompt, run code from elsewhere, or pass the prompt to an engine that does not know
these arguments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from transformers import GenerationMixin
from transformers.generation.continuous_batching import ContinuousBatchingManager, ContinuousMixin

from guide_ext.integration.call import source
from guide_ext.integration.call.arguments import steering_arguments
from guide_ext.integration.decoding import CompleteConfig

# The entry points of continuous batching, which packs the prompts of many requests into one row.
_ENTRIES = {
    ContinuousMixin: (
        "generate_batch",
        "init_continuous_batching",
        "continuous_batching_context_manager",
    ),
    ContinuousBatchingManager: ("add_request", "add_requests"),
}


def setting_of(name: str, model: Any, kwargs: Mapping[str, Any]) -> Any:
    """Return a setting as `generate()` finds it: its argument, its config's, the model's, or None.

    The first of these that is not None counts.
    """
    given = kwargs.get("generation_config")
    configs = (given,) if isinstance(given, CompleteConfig) else (given, model.generation_config)
    values = (kwargs.get(name), *(getattr(config, name, None) for config in configs))
    return next((value for value in values if value is not None), None)


def first_token(model: Any, kwargs: Mapping[str, Any]) -> Any:
    """Return the token that every text of a decoder begins with, as `generate()` finds it."""
    return source.first_token(functools.partial(setting_of, model=model, kwargs=kwargs))


def check_mode(model: Any, kwargs: Mapping[str, Any]) -> None:
    """Refuse modes of `generate()` that cannot be steered.

    Args:
        model: An enabled model.
        kwargs: Arguments of its `generate()`, including steering arguments.

    Raises:
        ValueError: If such a mode was asked for.

    """
    given = ", ".join(name for name in steering_arguments(model) if kwargs.get(name) is not None)
    if setting_of("token_healing", model, kwargs):
        raise ValueError(
            f"token_healing must be off with {given}, which count the tokens of the prompt, got "
            "True: it cuts the prompt and tokenises it again; pass token_healing=False"
        )
    if setting_of("cache_implementation", model, kwargs) == "paged":
        raise ValueError(
            f"generate(cache_implementation='paged') must be called without {given}, which it does "
            "not pass on to continuous batching; call "
            "generate_batch(**guide_ext.integration.as_requests(inputs)) of the enabled model"
        )
    if isinstance(kwargs.get("custom_generate"), str) or kwargs.get("trust_remote_code"):
        raise ValueError(
            f"custom_generate and trust_remote_code must be left out with {given}, got code from "
            "elsewhere that may drop them; pass custom_generate a function of your own"
        )
    moved = None if kwargs.get("custom_generate") else _moved_mode(model, kwargs)
    if moved is not None:
        raise ValueError(
            f"{moved} must be left out with {given}, got a mode that is no longer a part of "
            "transformers but code from elsewhere, which may drop them; write its loop as a "
            "function, and pass that as custom_generate"
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


def _moved_mode(model: Any, kwargs: Mapping[str, Any]) -> str | None:
    """Return the argument that asks for a mode that transformers loads from the hub, or None."""
    setting = functools.partial(setting_of, model=model, kwargs=kwargs)
    if setting("dola_layers") is not None:
        return "dola_layers"
    if (setting("num_beam_groups") or 1) > 1:
        return "num_beam_groups"
    for name in ("force_words_ids", "constraints"):
        if setting(name) is not None:
            return name
    is_contrastive = (setting("penalty_alpha") or 0) > 0 and (setting("top_k") or 0) > 1
    return "penalty_alpha" if is_contrastive and not setting("do_sample") else None


def refuse_in_continuous_batching() -> None:
    """Make continuous batching refuse steering arguments wherever it would drop them.

    Its entry points drop unknown arguments or fail later, in another thread. Enabled models have
    entry points of their own and managers of their own (`batching`). Importing
    `guide_ext.integration` calls this. Calls without steering arguments are not affected.
    """
    for owner, names in _ENTRIES.items():
        for name in names:
            entry = getattr(owner, name, None)
            if entry is not None and not hasattr(entry, "_guide_refuses"):
                setattr(owner, name, _refusing(name, entry))


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
        f"{entry} must be called without {given} here; call guide_ext.integration.enable(model) "
        "and leave its attention as it is, then pass steering arguments to generate_batch(), or "
        "to add_request() of a manager that the enabled model makes"
    )
