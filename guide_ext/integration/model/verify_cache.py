# SPDX-License-Identifier: MIT
"""Check, on a tiny input, that steering with a cache gives the same as steering without.

Without a cache, the bias and the input begin at the same token. With a cache they do not: the input
begins after the tokens of the cache. The cache is found in the arguments of the call by its name,
which transformers has changed before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from guide_ext.integration.call.arguments import DECODER_BIAS
from guide_ext.integration.call.caches import CACHE_ARGUMENTS
from guide_ext.integration.model.parallel import is_pipelined
from guide_ext.integration.model.trial import evaluation, trial_of
from guide_ext.integration.model.verify import Findings, UnsupportedModelError, tolerance

# Nats on one token: enough for the logits of any model to tell whether it was there.
_DELTA = 4.0


def check_cached_step(model: Any, findings: Findings) -> None:
    """Compare the logits of a last token with a cache to those of the same token without.

    One row is steered and one is not. A model may itself compute slightly different logits with a
    cache, for example where rounding sends a token to another expert; the unsteered row shows how
    much, and the steered row may differ twice as much. Nothing is compared if the model returns no
    cache, or fails with one even when it is not steered: then its users see that error anyway.

    Args:
        model: An enabled model.
        findings: What `verify.compare_with_eager` found.

    Raises:
        UnsupportedModelError: If the steered row differs, the step fails only when steered, or the
            model takes its cache under no known name.

    """
    if is_pipelined(model):
        return  # refuses caches
    name = type(model).__name__
    text = "decoder_input_ids" if findings.has_encoder else "input_ids"
    inputs = trial_of(model).twice().inputs
    bias = torch.zeros(inputs[text].shape)
    bias[0, -2] = _DELTA  # in the cache, and inside of any window
    steering = {DECODER_BIAS if findings.has_encoder else "guide_bias": bias}
    if findings.has_encoder and "input_ids" in inputs:
        steering["guide_bias"] = torch.zeros(inputs["input_ids"].shape)
        steering["guide_bias"][0, 1] = _DELTA
    with evaluation(model), torch.no_grad():
        try:
            found = _cached_step(model, findings.cache_argument, text, inputs, steering)
            if found is None:
                return
            whole = model(**inputs, **steering, use_cache=False)[0][:, -1]
        except (MemoryError, torch.OutOfMemoryError, UnsupportedModelError):
            raise
        except Exception as error:
            if _fails_unsteered(model, findings.cache_argument, text, inputs):
                return
            raise UnsupportedModelError(
                f"enable() must be able to steer {name} with a cache, got {error!r}; "
                "the model was left as it was"
            ) from error
    steered, plain = (found.double() - whole.double()).abs().amax(1).tolist()
    allowed = max(tolerance(whole), 2 * plain)
    if not steered <= allowed:  # NaN too
        raise UnsupportedModelError(
            f"enable() must find the logits of a steered {name} with a cache equal to those "
            f"without within {allowed:.3g}, got a difference of {steered:.3g}. The bias does not "
            "keep its tokens there and the model was left as it was; use it unsteered, or report "
            "the architecture"
        )


def _fails_unsteered(
    model: Any, cache_argument: str | None, text: str, inputs: dict[str, Tensor]
) -> bool:
    try:
        _cached_step(model, cache_argument, text, inputs, {})
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception:
        return True
    return False


def _cached_step(
    model: Any,
    cache_argument: str | None,
    text: str,
    inputs: dict[str, Tensor],
    steering: dict[str, Tensor],
) -> Tensor | None:
    """Run all tokens but the last, then the last from the cache; return its logits.

    Args:
        model: An enabled model.
        cache_argument: What it calls its cache.
        text: Name of the argument with the tokens that grow.
        inputs: All arguments of `forward` but the steering.
        steering: Steering arguments for the whole text; none for an unsteered step.

    Returns:
        ``[rows, vocabulary]``; None if the model returns no cache.

    """
    own = DECODER_BIAS if DECODER_BIAS in steering else "guide_bias"
    of_begin = {name: b[:, :-1] if name == own else b for name, b in steering.items()}
    ids = inputs[text]
    begun = model(**{**inputs, text: ids[:, :-1]}, **of_begin, use_cache=True)
    parts = begun.values() if isinstance(begun, Mapping) else begun
    cache = next((part for part in parts if isinstance(part, Cache)), None)
    if cache is None:
        return None
    if cache_argument is None:
        raise UnsupportedModelError(
            f"enable() must know what {type(model).__name__} calls its cache, "
            f"{' or '.join(CACHE_ARGUMENTS)}, got a model that returns a "
            f"{type(cache).__name__} and takes it under none of these names"
        )
    step = {**inputs, text: ids[:, -1:], cache_argument: cache, "use_cache": True}
    logits: Tensor = model(**step, **steering)[0][:, -1]
    return logits
