# SPDX-License-Identifier: MIT
"""Check, on a tiny input, that a model under "guide" computes what it computes under "eager".

Models call the attention function through one interface, but some rework the mask first (Doge tests
it for zero and keeps its largest entries). No attribute of a model says so; running it shows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from guide_ext.integration.call.caches import cache_argument
from guide_ext.integration.call.frame import Frame, Recorder, using
from guide_ext.integration.model.parallel import Heads, heads_of, unknown_part
from guide_ext.op.libraries import library_status

# Largest difference of the logits, relative to the largest logit: float32 models differ by about
# 1e-6, a wrong mask by far more than 1e-3. Half precisions: their rounding, through all layers.
_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 6e-2}

# Long enough for one row to have padding and several tokens.
_TOKENS = 8
# The input is made longer than windows, chunks, selections and compression of at most this many
# tokens, so that they have an effect; longer ones would need a long input.
_LONGEST_LIMIT = 64
_LIMITS = ("sliding_window", "attention_chunk_size", "index_topk", "indexer_budget",
           "index_block_size", "compress_rates", "keep_window_size")  # fmt: skip


class UnsupportedModelError(ValueError):
    """A model that cannot be steered or measured exactly. It was left as it was."""


@dataclass(frozen=True)
class Findings:
    """What the comparison with eager attention found.

    Attributes:
        implementation: ``"guide"``, or ``"guide_dense"`` for a model that reworks its mask.
        configs: Configs that the model makes masks for.
        layers: Attention modules that the bias reaches, in the order of their calls.
        heads: For each of them its query heads, and which of these are in this process.
        cache_argument: The name of `forward()`'s argument for the cache; None if it has no known
            name.
        unknown_part: If some layers or heads are not known here, a description of the known ones;
            otherwise "".
        num_hidden_layers: Number of layers according to the config of the text model.
        repeated: Class name of an attention module that ran more than once in one call, or "".

    """

    implementation: str
    configs: tuple[Any, ...]
    layers: tuple[nn.Module, ...]
    heads: tuple[Heads, ...]
    cache_argument: str | None
    unknown_part: str = ""
    num_hidden_layers: int | None = None
    repeated: str = ""

    @property
    def num_heads(self) -> int:
        """Query heads, in all processes, of the layer with the most heads."""
        return max(layer.total for layer in self.heads)


def compare_with_eager(model: Any) -> Findings:
    """Compare a model under "guide" with the same model under "eager".

    Afterwards the attention implementation, the training flags and the random state are as before,
    also after an error.

    Args:
        model: A transformers model.

    Returns:
        What was found.

    Raises:
        UnsupportedModelError: If the model cannot be compared, or its outputs differ, with dense
            masks, too.
        ValueError: If the compiled library cannot run, because GUIDE_EXT_CPU_ISA names no
            instruction set.

    """
    name = type(model).__name__
    status = library_status()
    if status.loaded and status.instruction_set is None:
        raise ValueError(status.reason)  # the op cannot run: no fault of the model
    if not isinstance(getattr(model.config.get_text_config(), "vocab_size", None), int):
        raise UnsupportedModelError(
            f"model must read token ids, got {name}, whose config has no vocab_size; enable the "
            "language model inside it, if there is one"
        )
    input_ids, attention_mask = tiny_batch(model)
    with evaluation(model), keeping_implementation(model), torch.no_grad():
        try:
            wanted, _ = _run(model, "eager", input_ids, attention_mask)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise UnsupportedModelError(
                f"enable() must be able to run {name} on token ids alone, got {error!r}"
            ) from error
        if wanted.dtype == torch.float64 and not bool(torch.isfinite(wanted).all()):
            # Eager attention hides keys with float64's lowest number. A softmax in float32 reads it
            # as -inf, so rows of padding become NaN. So compare without the padded row.
            input_ids, attention_mask = input_ids[1:], attention_mask[1:]
            wanted, _ = _run(model, "eager", input_ids, attention_mask)
        if not bool(torch.isfinite(wanted).all()):
            raise UnsupportedModelError(
                f"enable() must compare {name} with its own eager attention, got NaN or inf from "
                f"that in {wanted.dtype} on a left-padded batch; load the model in another dtype"
            )
        allowed = tolerance(wanted)
        failures, cause = [], None
        for implementation in ("guide", "guide_dense"):
            try:
                found, recorder = _run(model, implementation, input_ids, attention_mask)
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                failures.append(f"{implementation!r} fails with {error!r}")
                cause = error
                continue
            difference = float((found.double() - wanted.double()).abs().max())
            if not difference <= allowed:  # NaN too
                failures.append(f"{implementation!r} differs by up to {difference:.3g}")
            elif not recorder.layers and not recorder.attends:
                raise UnsupportedModelError(
                    f"model must have attention layers, got {name}, which calls attention nowhere: "
                    "there is nothing that a bias could be added to"
                )
            elif not recorder.layers:
                failures.append(f"{implementation!r} never hands a mask to an attention layer")
            else:
                return _findings(model, implementation, recorder)
    raise UnsupportedModelError(
        f"enable() must find the logits of {name} equal to those of eager attention within "
        f"{allowed:.3g}, got: {'; '.join(failures)}. This architecture cannot be steered exactly "
        "and the model was left as it was; use it unsteered, or report the architecture"
    ) from cause


def tolerance(logits: Tensor) -> float:
    """Return the largest difference from these logits that is allowed."""
    return _TOLERANCE.get(logits.dtype, 1e-3) * float(logits.abs().max())


@contextmanager
def keeping_implementation(model: Any) -> Iterator[None]:
    """Restore the attention implementation of every config at the end of a ``with`` block."""
    before = implementations(model)
    try:
        yield
    finally:
        restore(before)


def implementations(model: Any) -> list[tuple[Any, Any]]:
    """Return every config of a model, each with its attention implementation."""
    waiting = [module.config for module in model.modules() if hasattr(module, "config")]
    found: dict[int, tuple[Any, Any]] = {}
    while waiting:
        config = waiting.pop()
        if id(config) in found or not hasattr(config, "_attn_implementation_internal"):
            continue
        found[id(config)] = (config, config._attn_implementation_internal)
        waiting += [getattr(config, key, None) for key in getattr(config, "sub_configs", {})]
    return list(found.values())


def restore(before: list[tuple[Any, Any]]) -> None:
    """Restore what `implementations` returned."""
    for config, implementation in before:
        config._attn_implementation_internal = implementation


def _run(
    model: Any, implementation: str, input_ids: Tensor, attention_mask: Tensor
) -> tuple[Tensor, Recorder]:
    """Run the model once; return the logits of tokens that are no padding, and the recorder."""
    model.set_attn_implementation(implementation)
    recorder = Recorder()
    with using(Frame(recorder=recorder)):
        output = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    return output[0][attention_mask.bool()], recorder


def tiny_run(model: Any) -> None:
    """Run the model once, in evaluation mode, on a few tokens without padding."""
    input_ids, _ = tiny_batch(model)
    with evaluation(model), torch.no_grad():
        model(input_ids=input_ids[1:], use_cache=False)


def tiny_batch(model: Any) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask of two rows, the first with left padding."""
    config = model.config.get_text_config()
    tokens = max(_TOKENS, 3 + max(_short_limits(config), default=0))
    device = next((p.device for p in model.parameters() if p.device.type != "meta"), "cpu")
    # Multiples of a prime: all different, and far from the special tokens at the start.
    input_ids = (torch.arange(1, 2 * tokens + 1, device=device) * 7) % config.vocab_size
    attention_mask = torch.ones(2, tokens, dtype=torch.long, device=device)
    attention_mask[0, : tokens // 3] = 0
    return input_ids.view(2, tokens), attention_mask


def _short_limits(config: Any) -> list[int]:
    """Return the windows and other limits of a config that are few tokens."""
    values = [getattr(config, name, None) for name in _LIMITS]
    values += [v for value in values if isinstance(value, dict) for v in value.values()]
    return [v for v in values if isinstance(v, int) and 0 < v <= _LONGEST_LIMIT]


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode inside a ``with`` block, then restore its own mode."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def _findings(model: Any, implementation: str, recorder: Recorder) -> Findings:
    configs = {id(config): config for config in recorder.configs if config is not None}
    layers = dict(recorder.layers)
    heads = heads_of(model, tuple(layers.values()))
    calls = Counter(module for module, _ in recorder.layers)
    return Findings(
        implementation=implementation,
        configs=tuple(configs.values()),
        layers=tuple(layers),
        heads=heads,
        cache_argument=cache_argument(model.forward),
        unknown_part=unknown_part(model, heads),
        num_hidden_layers=getattr(model.config.get_text_config(), "num_hidden_layers", None),
        repeated=next((type(module).__name__ for module, n in calls.items() if n > 1), ""),
    )
