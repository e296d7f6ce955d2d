# SPDX-License-Identifier: MIT
"""The manager of continuous batching for an enabled model.

transformers' own manager switches the attention of the model (to a flash kernel, where there is
one), and lets requests that begin with the same tokens share what their cache holds. A steering
changes what the cache holds. So this manager switches nothing, shares nothing, and gives every call
of the model the steering of the requests in it.

The steering is part of a request: it goes where the request goes, also when the cache is full and
the request has to begin again, or when it is copied for several return sequences.
"""

from __future__ import annotations

import copy
import weakref
from typing import Any

from transformers.generation.continuous_batching import ContinuousBatchingManager
from transformers.generation.continuous_batching.input_outputs import ContinuousBatchingIOs

from guide_ext.integration.batching.requests import (
    REQUEST_ARGUMENTS,
    STEERING_KEY,
    SteeredPrompt,
    steered_prompts,
)
from guide_ext.integration.batching.trial import check_packed_calls, positions_alone
from guide_ext.integration.call.arguments import PACKED_ARGUMENT, check_implementation
from guide_ext.integration.call.packed import PackedBatch, RequestSteering, Stretch, windows_of
from guide_ext.integration.model.parallel import is_pipelined
from guide_ext.integration.model.state import is_enabled, state_of

_MANAGERS: weakref.WeakSet[GuidedManager] = weakref.WeakSet()


class GuidedManager(ContinuousBatchingManager):  # type: ignore[misc]
    """A `ContinuousBatchingManager` whose requests have a steering each.

    `init_continuous_batching()` and `continuous_batching_context_manager()` of an enabled model
    return one.

    Raises:
        ValueError: If the model cannot be steered by continuous batching, or a setting cannot be
            kept: CUDA graphs, compilation, asynchronous batches, tensor parallelism.
        UnsupportedModelError: If the model computes something else in packed calls than alone.

    """

    def __init__(
        self,
        model: Any,
        generation_config: Any,
        continuous_batching_config: Any,
        workload_hints: Any = None,
    ) -> None:
        config = copy.deepcopy(continuous_batching_config)
        config.allow_block_sharing = False  # blocks are found by their tokens alone
        super().__init__(model, generation_config, config, workload_hints)
        _refuse_settings(self.continuous_batching_config, config)
        if self.distributed_helper.tp_size > 1 or is_pipelined(model):
            raise ValueError(
                "continuous batching must run in one process to be steered, got a model that is "
                "split over several; use generate() there"
            )
        self.logit_processor.supported_keys[STEERING_KEY] = RequestSteering
        self._positions = positions_alone(model)
        _MANAGERS.add(self)
        check_packed_calls(model, self.distributed_helper, self.logit_processor, GuidedIOs)

    def switch_to_cb_friendly_attn(self, model: Any, auto_switch_to_flash: bool = True) -> None:
        """Check, instead of a switch, that the attention of the model is still ours.

        Raises:
            ValueError: If the model is not enabled any more, or its attention was switched.

        """
        if not is_enabled(model):
            raise ValueError(
                f"model must still be enabled, got a {type(model).__name__} that is not, with a "
                "manager for steered requests; call guide_ext.integration.enable(model), or "
                "model.destroy_cached_continuous_batching_manager()"
            )
        findings = state_of(model).findings
        check_implementation(findings.configs, findings.implementation)

    def start(self) -> None:
        """Start the thread that generates."""
        self.switch_to_cb_friendly_attn(self.model)
        super().start()

    def stop(self, *args: Any, **kwargs: Any) -> None:
        """Stop the thread that generates.

        Raises:
            RuntimeError: If it has stopped before, with an error, which is the cause.

        """
        super().stop(*args, **kwargs)
        self._raise_fatal_error()

    def get_result(self, request_id: str | None = None, timeout: float | None = None) -> Any:
        """Return one result; see `ContinuousBatchingManager.get_result`.

        Raises:
            RuntimeError: If there is none, because the thread that generates has stopped with an
                error, which is the cause.

        """
        result = super().get_result(request_id, timeout)
        if result is None and self.output_router.output_queue.empty():
            self._raise_fatal_error()
        return result

    def add_request(
        self,
        input_ids: Any,
        request_id: str | None = None,
        max_new_tokens: int | None = None,
        *args: Any,
        guide_bias: Any = None,
        guide_strength: Any = None,
        guide_share: Any = None,
        **kwargs: Any,
    ) -> str | None:
        """Add a request.

        Args:
            input_ids: The tokens of the prompt.
            request_id: See `ContinuousBatchingManager.add_request`.
            max_new_tokens: Likewise.
            *args: See `ContinuousBatchingManager.add_request`.
            guide_bias: Nats for each token of the prompt, a sequence or a tensor ``[tokens]``; None
                for an unsteered request.
            guide_strength: Multiplier of the bias, ``[layers, heads]``; None for 1.
            guide_share: Minimum share of the attention that the marked tokens get together: that
                number on each marked token, 0 on the others, ``[tokens]``.
            **kwargs: See `ContinuousBatchingManager.add_request`.

        Returns:
            The id of the request.

        Raises:
            ValueError: If a steering argument does not fit, or the request is too long.
            RuntimeError: If a steered request cannot be taken, because the manager stops.

        """
        refuse_unknown(kwargs, "add_request()")
        if isinstance(input_ids, SteeredPrompt):
            steering = input_ids.steering
        else:
            [prompt] = steered_prompts(
                self.model,
                [input_ids],
                {
                    "guide_bias": None if guide_bias is None else [guide_bias],
                    "guide_strength": None if guide_strength is None else [guide_strength],
                    "guide_share": None if guide_share is None else [guide_share],
                },
            )
            steering, input_ids = prompt.steering, list(prompt)
        self._check_positions(len(input_ids), max_new_tokens)
        kwargs[STEERING_KEY] = steering
        found: str | None = super().add_request(
            input_ids, request_id, max_new_tokens, *args, **kwargs
        )
        if found is None and steering.bias is not None:
            reason = self.background_thread_status.can_accept_new_requests()
            raise RuntimeError(
                f"a steered request must go to a manager that takes requests, got one that does "
                f"not: {reason}"
            ) from self.background_thread_status.fatal_error
        if isinstance(input_ids, SteeredPrompt):
            input_ids.is_taken = True
        return found

    def add_requests(
        self,
        inputs: Any,
        *args: Any,
        guide_bias: Any = None,
        guide_strength: Any = None,
        guide_share: Any = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add requests; all steering arguments are checked before the first one is added.

        Args:
            inputs: The tokens of the prompts.
            *args: See `ContinuousBatchingManager.add_requests`.
            guide_bias: One entry for each prompt, as for `add_request`, or None.
            guide_strength: Likewise.
            guide_share: Likewise.
            **kwargs: See `ContinuousBatchingManager.add_requests`.

        Returns:
            The ids of the requests.

        Raises:
            ValueError: If a steering argument does not fit; the message says which prompt it is.

        """
        refuse_unknown(kwargs, "add_requests()")
        given = dict(zip(REQUEST_ARGUMENTS, (guide_bias, guide_strength, guide_share), strict=True))
        if any(value is not None for value in given.values()):
            inputs = steered_prompts(self.model, inputs, given)
        added: list[str] = super().add_requests(inputs, *args, **kwargs)
        return added

    def _create_batch_processor(self) -> Any:
        processor = super()._create_batch_processor()
        ios = processor.inputs_and_outputs
        if type(ios) is ContinuousBatchingIOs:
            ios.__class__ = GuidedIOs  # others know this object already
        elif type(ios) is not GuidedIOs:
            raise ValueError(
                "continuous batching must prepare its batches one after another to be steered, got "
                f"a {type(ios).__name__}; pass ContinuousBatchingConfig(use_async_batching=False)"
            )
        return processor

    def _check_positions(self, tokens: int, new: int | None) -> None:
        """Refuse a request that would change the positions of others; see `positions_alone`."""
        new = self.generation_config.max_new_tokens if new is None else new
        if self._positions is None or (new is not None and tokens + new <= self._positions):
            return
        raise ValueError(
            f"a request must have at most {self._positions} tokens with its answer in continuous "
            f"batching of a {type(self.model).__name__}, whose rotary embeddings change for all "
            f"requests if one is longer, got {tokens} and max_new_tokens={new}; use generate()"
        )

    def _raise_fatal_error(self) -> None:
        error = self.background_thread_status.fatal_error
        if error is not None:
            raise RuntimeError(
                f"continuous batching stopped before all requests were answered: {error}"
            ) from error


class GuidedIOs(ContinuousBatchingIOs):  # type: ignore[misc]
    """Prepares the calls of the model, and adds to each the steering of its requests."""

    packed: PackedBatch | None = None

    def prepare_batch_tensors(self, requests_in_batch: Any, *args: Any, **kwargs: Any) -> None:
        """Prepare a call; see `ContinuousBatchingIOs.prepare_batch_tensors`."""
        super().prepare_batch_tensors(requests_in_batch, *args, **kwargs)
        stretches, first = [], 0
        windows = windows_of(self.cache)
        keys_before = dict.fromkeys(windows, 0)
        for future in requests_in_batch:
            state, length = future.state, future.query_length
            end = state.position_offset  # just moved behind the queries
            keys = {}
            for kind, allocator in self.cache.cache_allocators.items():
                count = allocator.get_seqlen_k(end - length, length)
                keys[kind] = slice(keys_before[kind], keys_before[kind] + count)
                keys_before[kind] += count
            steering = _steering_of(state)
            stretches.append(Stretch(slice(first, first + length), keys, end, steering))
            first += length
        self.packed = PackedBatch(self.cache, windows, stretches)

    def get_model_kwargs(self, use_padding: bool = False) -> Any:
        """Return the arguments of the call; see `ContinuousBatchingIOs.get_model_kwargs`."""
        kwargs: dict[str, Any] = dict(super().get_model_kwargs(use_padding))
        kwargs[PACKED_ARGUMENT] = self.packed
        return kwargs


def refuse_running_manager(model: Any) -> None:
    """Raise ValueError if a manager is running that needs the model as it is.

    Args:
        model: A model that is to be disabled. A call of it may be half done, in another thread.

    """
    if any(manager.model is model and manager.is_running() for manager in set(_MANAGERS)):
        raise ValueError(
            f"disable() must get a model that answers no requests, got a {type(model).__name__} "
            "whose manager of continuous batching is running; call stop() of the manager"
        )


def refuse_unknown(kwargs: dict[str, Any], entry: str) -> None:
    """Raise ValueError if there is an argument that begins like a steering argument.

    Args:
        kwargs: The arguments that are left.
        entry: The name of what was called, for the message.

    """
    given = [name for name, value in kwargs.items() if name.startswith("guide_")]
    given = [name for name in given if kwargs[name] is not None or name != "guide_seed"]
    if given:
        raise ValueError(
            f"{entry} must get {', '.join(REQUEST_ARGUMENTS)} as steering arguments, got "
            f"{', '.join(given)}; continuous batching measures no Influence, generate() does"
        )


def _steering_of(state: Any) -> RequestSteering:
    """Return the steering that came with a request.

    Raises:
        RuntimeError: If it was lost on the way, or belongs to more tokens than the request has.

    """
    steering = state.logit_processor_kwargs.get(STEERING_KEY)
    if not isinstance(steering, RequestSteering):
        raise RuntimeError(
            f"request {state.request_id!r} must still have the steering that it was added with, "
            "got none, so its answer would not be steered"
        )
    if steering.bias is not None and steering.bias.shape[1] > len(state.initial_tokens):
        raise RuntimeError(
            f"request {state.request_id!r} must still have the {steering.bias.shape[1]} token(s) "
            f"of its prompt, got {len(state.initial_tokens)}"
        )
    return steering


def _refuse_settings(resolved: Any, given: Any) -> None:
    """Refuse settings under which a call is recorded once and repeated, or prepared ahead."""
    graphs = (*resolved.cuda_graph_booleans, *given.cuda_graph_booleans)
    compiled = (resolved.varlen_compile_config, resolved.decode_compile_config)
    found = None
    if any(graphs):
        found = "use_cuda_graph (the padding intervals turn it on, too)"
    elif any(config is not None for config in compiled):
        found = "a compile config or default_compile_level"
    elif resolved.use_async_batching:
        found = "use_async_batching"
    if found:
        raise ValueError(
            "continuous batching of steered requests must run its calls one by one, uncompiled, as "
            f"every call has other requests, got {found}; leave it out, or use "
            "model.set_attn_implementation('sdpa') for unsteered requests"
        )
