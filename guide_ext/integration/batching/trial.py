# SPDX-License-Identifier: MIT
"""Check, on a tiny input, that a model computes in packed calls what it computes alone.

Some models read more of a call than their attention does: a mask that is not causal, or positions
of the whole row. No attribute says so; running them shows it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState

from guide_ext.integration.batching.requests import STEERING_KEY
from guide_ext.integration.call.packed import RequestSteering
from guide_ext.integration.model.state import state_of
from guide_ext.integration.model.trial import evaluation, tiny_batch
from guide_ext.integration.model.verify import UnsupportedModelError, tolerance

_DELTA = 4.0  # nats, enough for the logits of any model to tell
_PAGE = 4


def check_packed_calls(model: Any, distributed: Any, processors: Any, make_ios: Any) -> None:
    """Compare two requests in two packed calls with each of them alone; once for a model.

    Args:
        model: An enabled model.
        distributed: The manager's helper for several processes.
        processors: The manager's logits processors.
        make_ios: The class that prepares calls.

    Raises:
        UnsupportedModelError: If the logits differ, or the packed calls fail.

    """
    state = state_of(model)
    if state.is_tried_packed:
        return
    name = type(model).__name__
    with evaluation(model), torch.no_grad():
        try:
            found, wanted = _logits(model, distributed, processors, make_ios)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise UnsupportedModelError(
                f"continuous batching must be able to run {name} to steer it, got {error!r}; use "
                "generate() for this model"
            ) from error
    allowed = tolerance(wanted)
    difference = (found.double() - wanted.double()).abs().max().item()
    if not difference <= allowed:  # NaN too
        raise UnsupportedModelError(
            f"continuous batching must compute for {name} what the model computes for each "
            f"request alone, within {allowed:.3g}, got a difference of {difference:.3g}; use "
            "generate() for this model"
        )
    state.is_tried_packed = True


def _logits(model: Any, distributed: Any, processors: Any, make_ios: Any) -> tuple[Tensor, Tensor]:
    """Return the logits of packed calls and of each text alone, ``[tokens, vocabulary]`` both."""
    rows, _ = tiny_batch(model)
    texts = [rows[0], rows[1, :-2]]
    biases = [torch.zeros(1, len(text)) for text in texts]
    biases[0][0, len(texts[0]) // 2] = _DELTA
    biases[0][0, -2] = -_DELTA
    wanted = [
        model(input_ids=text[None], guide_bias=bias.to(text.device), use_cache=False)[0][0]
        for text, bias in zip(texts, biases, strict=True)
    ]
    tokens = sum(len(text) for text in texts)
    config = ContinuousBatchingConfig(
        page_size=_PAGE,
        num_blocks=4 * (tokens // _PAGE + len(texts)),
        max_batch_tokens=tokens,
        max_requests_per_batch=len(texts),
        max_blocks_per_request=0,
        max_memory_percent=1.0,
        allow_block_sharing=False,
        use_cuda_graph=False,
        use_async_batching=False,
    )
    text_config = model.config.get_text_config()
    cache = PagedAttentionCache(text_config, config, model.device, distributed, model.dtype)
    ios = make_ios(cache, text_config, config, model.device, model.dtype, processors)
    steering = [RequestSteering(biases[0]), RequestSteering()]
    states = [_state(*given) for given in zip(("0", "1"), texts, steering, strict=True)]
    found: list[list[Tensor]] = [[] for _ in texts]
    begin = len(texts[0]) - 3  # of both: then the second call has several queries of each
    for part in (slice(0, begin), slice(begin, None)):
        futures = []
        for state in states:
            ids = state.initial_tokens[part]
            if ids:
                if not cache.can_store_request_tokens(state, len(ids)):
                    raise RuntimeError("the cache of the trial is full")
                state.tokens_to_process = ids
                futures.append(FutureRequestState(state, True, {}, len(ids)))
        lengths = [future.query_length for future in futures]
        read = sum(future.state.position_offset for future in futures)
        ios.prepare_batch_tensors(futures, processors, False, sum(lengths), read, False)
        logits = model(**ios.get_model_kwargs())[0][0]
        for index, piece in enumerate(logits.split(lengths)):
            found[index].append(piece)
    return torch.cat([torch.cat(parts) for parts in found]), torch.cat(wanted)


def _state(request_id: str, text: Tensor, steering: RequestSteering) -> RequestState:
    kwargs = {STEERING_KEY: steering}
    return RequestState(request_id, text.tolist(), logit_processor_kwargs=kwargs)


def positions_alone(model: Any) -> int | None:
    """Return how many tokens a request may have, so that its positions are its own; None for any.

    Some rotary embeddings take other frequencies for all requests of a call as soon as one of them
    is longer than a limit. They read the longest position of the call, whosoever it is.
    """
    limits = []
    for module in model.modules():
        own = getattr(module, "rope_type", None)
        kinds = own.values() if isinstance(own, dict) else (own,)
        if any(
            isinstance(kind, str) and ("dynamic" in kind or kind == "longrope") for kind in kinds
        ):
            given = getattr(module.config, "rope_parameters", None) or {}
            tables = (given, *(table for table in given.values() if isinstance(table, dict)))
            found = [table.get("original_max_position_embeddings") for table in tables]
            limits += [
                limit for limit in (*found, module.original_max_seq_len) if limit is not None
            ]
    return min(limits, default=None)
