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
from guide_ext.integration.model.trial import Trial, evaluation, trial_of
from guide_ext.integration.model.watch import SoftmaxWatch, is_attention
from guide_ext.op.libraries import library_status

# Largest difference of the logits, relative to the largest logit: float32 models differ by about
# 1e-6, a wrong mask by far more than 1e-3. Half precisions: their rounding, through all layers.
_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 6e-2}


class UnsupportedModelError(ValueError):
    """A model that cannot be steered or measured exactly. It was left as it was."""


@dataclass(frozen=True)
class Findings:
    """What the comparison with eager attention found.

    Attributes:
        implementation: ``"guide"``; ``"guide_dense"`` for a model that reworks its mask;
            ``"eager"`` for one whose attention is code of its own, with the bias in its mask.
        configs: Configs that the model makes masks for.
        layers: Attention modules that the bias reaches, in the order of their calls; none if the
            attention is code of the model's own.
        heads: For each of them its query heads, and which of these are in this process.
        cache_argument: The name of `forward()`'s argument for the cache; None if it has no known
            name.
        unknown_part: If some layers or heads are not known here, a description of the known ones;
            otherwise "".
        num_hidden_layers: Number of layers according to the config of the text model.
        repeated: Class name of an attention module that ran more than once in one call, or "".
        kinds: Encoder–decoders only: what each layer attends to, "encoder", "decoder" or "cross".
        carries_all: Whether every layer gets a mask that can carry a bias.
        pads_right: Whether what the model reads is no text that goes on: every token sees all.

    """

    implementation: str
    configs: tuple[Any, ...]
    layers: tuple[nn.Module, ...]
    heads: tuple[Heads, ...]
    cache_argument: str | None
    unknown_part: str = ""
    num_hidden_layers: int | None = None
    repeated: str = ""
    kinds: tuple[str, ...] = ()
    carries_all: bool = True
    pads_right: bool = False

    @property
    def adds_to_mask(self) -> bool:
        """Whether the bias reaches the model in its mask, and the same one every layer and head."""
        return self.implementation == "eager"

    @property
    def has_encoder(self) -> bool:
        """Whether the model is an encoder–decoder."""
        return bool(self.kinds)

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
    with evaluation(model), keeping_implementation(model), torch.no_grad():
        try:
            model.set_attn_implementation("eager")
            trial = trial_of(model)
            wanted, _ = _run(model, "eager", trial)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise UnsupportedModelError(
                f"enable() must be able to run {name} on {_read_by(model)}, got {error!r}"
            ) from error
        if wanted.dtype == torch.float64 and not bool(torch.isfinite(wanted).all()):
            # Eager attention hides keys with float64's lowest number. A softmax in float32 reads it
            # as -inf, so rows of padding become NaN. So compare without the padded row.
            trial = trial.without_padding()
            wanted, _ = _run(model, "eager", trial)
        if not bool(torch.isfinite(wanted).all()):
            raise UnsupportedModelError(
                f"enable() must compare {name} with its own eager attention, got NaN or inf from "
                f"that in {wanted.dtype} on a left-padded batch; load the model in another dtype"
            )
        allowed = tolerance(wanted)
        failures, cause = [], None
        # With dense masks, the bias waits by its number of keys. That cannot tell two texts apart.
        ways = ("guide",) if model.config.is_encoder_decoder else ("guide", "guide_dense")
        for implementation in ways:
            try:
                found, recorder = _run(model, implementation, trial)
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                failures.append(f"{implementation!r} fails with {error!r}")
                cause = error
                continue
            difference = float((found.double() - wanted.double()).abs().max())
            if not difference <= allowed:  # NaN too
                failures.append(f"{implementation!r} differs by up to {difference:.3g}")
            elif recorder.others and recorder.layers:
                raise UnsupportedModelError(
                    "model must use the attention interface of transformers in all its layers, got "
                    f"{name}, which also computes attention in code of its own ({recorder.others} "
                    "times in a pass): these layers would not be steered"
                )
            elif not recorder.layers and not recorder.attends:
                raise UnsupportedModelError(
                    f"model must have attention layers, got {name}, which calls attention nowhere: "
                    "there is nothing that a bias could be added to"
                )
            elif not recorder.layers:
                failures.append(f"{implementation!r} never hands a mask to an attention layer")
            else:
                # Some models make no mask where the caller gives none.
                bare = recorder
                if model.config.is_encoder_decoder:
                    _, bare = _run(model, implementation, trial.without_masks())
                return _findings(model, implementation, recorder, bare)
    raise UnsupportedModelError(
        f"enable() must find the logits of {name} equal to those of eager attention within "
        f"{allowed:.3g}, got: {'; '.join(failures)}. This architecture cannot be steered exactly "
        "and the model was left as it was; use it unsteered, or report the architecture"
    ) from cause


def _read_by(model: Any) -> str:
    if not model.config.is_encoder_decoder:
        return "token ids alone"
    return f"{model.main_input_name} and token ids alone"


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


def _run(model: Any, implementation: str, trial: Trial) -> tuple[Tensor, Recorder]:
    """Run the model once; return what `Trial.run` returns, and the recorder."""
    model.set_attn_implementation(implementation)
    has_encoder = model.config.is_encoder_decoder
    recorder = Recorder(needs_mask=not has_encoder)
    with using(Frame(recorder=recorder, has_encoder=has_encoder)), SoftmaxWatch() as watch:
        found = trial.run(model)
    # Under eager attention, every layer takes a softmax; under ours, none.
    lengths = {*recorder.num_keys.values(), trial.mask.shape[1]}
    recorder.others = sum(is_attention(scores, lengths) for scores in watch.scores)
    recorder.others += sum(own <= lengths for own in watch.fused)
    return found, recorder


def _findings(model: Any, implementation: str, recorder: Recorder, bare: Recorder) -> Findings:
    """Return what two runs have shown, one with masks of the caller's and one without."""
    configs = {id(config): config for config in recorder.configs if config is not None}
    layers = dict(recorder.layers)
    heads = heads_of(model, tuple(layers.values()))
    calls = Counter(module for module, _ in recorder.layers)
    kinds = _kinds(model, recorder, list(layers)) if model.config.is_encoder_decoder else ()
    return Findings(
        implementation=implementation,
        configs=tuple(configs.values()),
        layers=tuple(layers),
        heads=heads,
        cache_argument=cache_argument(model.forward),
        unknown_part=unknown_part(model, heads),
        num_hidden_layers=getattr(model.config.get_text_config(), "num_hidden_layers", None),
        repeated=next((type(module).__name__ for module, n in calls.items() if n > 1), ""),
        kinds=kinds,
        carries_all=set(layers) <= set(recorder.is_causal) & set(bare.is_causal),
        pads_right=bool(kinds) or all(recorder.is_causal.get(one) is False for one in layers),
    )


def _reaches_all(encoder: nn.Module, reached: set[nn.Module]) -> bool:
    """Return whether every layer of an encoder has one of these attention modules.

    Layers stand in lists. A list counts if one of its layers has such a module.
    """
    lists = [part for part in encoder.modules() if isinstance(part, nn.ModuleList)]
    hits = [[not reached.isdisjoint(layer.modules()) for layer in one] for one in lists]
    # Lists inside of a layer hold its parts: attention, then something else.
    outermost = [
        own
        for one, own in zip(lists, hits, strict=True)
        if any(own) and not any(one is not other and one in set(other.modules()) for other in lists)
    ]
    return bool(outermost) and all(all(own) for own in outermost)


def _kinds(model: Any, recorder: Recorder, layers: list[nn.Module]) -> tuple[str, ...]:
    """Tell apart the layers of an encoder–decoder.

    Raises:
        UnsupportedModelError: If the decoder's own layers cannot be told from those that look at
            the encoder, some layers of the encoder call no attention function, or the encoder gives
            on fewer positions than its layers have.

    """
    of_encoder = set(model.get_encoder().modules())
    found = [
        "encoder"
        if layer in of_encoder
        else "decoder"
        if recorder.is_causal.get(layer)
        else "cross"
        for layer in layers
    ]
    counts = Counter(found)
    if not counts["cross"] or counts["decoder"] != counts["cross"]:
        raise UnsupportedModelError(
            "an encoder–decoder must attend to its own text and to the encoder in every layer of "
            f"its decoder, got {counts['decoder']} layers with the one and {counts['cross']} with "
            f"the other in {type(model).__name__}"
        )
    reached = {layer for layer, kind in zip(layers, found, strict=True) if kind == "encoder"}
    if not _reaches_all(model.get_encoder(), reached):
        raise UnsupportedModelError(
            "an encoder must use the attention interface of transformers in all its layers, got "
            f"{len(reached)} that do in {type(model).__name__}, and others whose attention is code "
            "of their own: they would not be steered"
        )
    lengths = {
        recorder.num_keys[layer]
        for layer, kind in zip(layers, found, strict=True)
        if kind != "decoder"
    }
    if len(lengths) > 1:
        raise UnsupportedModelError(
            "an encoder must have as many positions in all its layers as it gives to the decoder, "
            f"so that one bias fits them, got {' and '.join(map(str, sorted(lengths)))} in "
            f"{type(model).__name__}"
        )
    return tuple(found)
