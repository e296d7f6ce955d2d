# SPDX-License-Identifier: MIT
"""Examine models whose attention is code of their own: does a mask with a bias steer them exactly?

They call no attention function that could be replaced, but most add a floating mask to their
scores. A bias in that mask is a bias of the scores, if every layer adds it, as it is, and nothing
else reads it. No attribute of a model says so. So the model runs twice under a watch on softmax:
without a bias, and with one while every softmax returns what it returned before. All inputs of a
layer are then equal, and the scores may differ by nothing but the bias.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from guide_ext.integration.call.caches import cache_argument
from guide_ext.integration.call.frame import Frame, Recorder, using
from guide_ext.integration.model.parallel import Heads, group_of, is_pipelined
from guide_ext.integration.model.trial import Trial, evaluation, trial_of
from guide_ext.integration.model.verify import Findings, UnsupportedModelError
from guide_ext.integration.model.watch import HIDDEN, SoftmaxWatch

EAGER = "eager"

# Largest difference between scores and what they must be, relative to the largest: rounding.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
_HOW = {False: "do not have the bias", True: "differ by something else than the bias"}


def has_own_attention(model: nn.Module) -> bool:
    """Return whether no part of a model can use another attention function."""
    parts = (part for part in model.modules() if isinstance(part, PreTrainedModel))
    return not any(part._can_set_attn_implementation() for part in parts)


def examine(model: Any) -> Findings:
    """Find out whether a bias in the mask of a model steers it exactly.

    Args:
        model: A model that cannot use another attention function, under eager attention.

    Raises:
        UnsupportedModelError: If it does not, or it cannot be told.

    """
    name = type(model).__name__
    reason = _why_not(model)
    if not reason:
        trial = trial_of(model)
        with evaluation(model), torch.no_grad():
            try:
                configs, plain = _scores(model, trial, None)
                bias = torch.linspace(-2, 2, trial.mask.numel()).reshape(trial.mask.shape)
                _, steered = _scores(model, trial, bias, plain)
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                raise UnsupportedModelError(
                    f"enable() must be able to run {name} on token ids alone, got {error!r}"
                ) from error
        layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
        reason, heads, is_causal = _compare(plain, steered, bias, layers)
    if reason:
        raise UnsupportedModelError(
            f"model must use the attention interface of transformers, got {name}, which computes "
            f"attention in code of its own; a bias in its mask would not steer it: {reason}"
        )
    return Findings(
        implementation=EAGER,
        configs=configs,
        layers=(),
        heads=tuple(Heads((count,)) for count in heads),
        cache_argument=cache_argument(model.forward),
        num_hidden_layers=layers,
        pads_right=not is_causal,
    )


def _why_not(model: Any) -> str:
    """Return why a model is not even tried; "" if it is."""
    if model.config.is_encoder_decoder:
        return "it has an encoder in front"
    if group_of(model) is not None or is_pipelined(model):
        return "it is spread over processes"
    if getattr(model.config, "attention_type", None) == "block_sparse":
        return "it is block-sparse in long texts; set config.attention_type = 'original_full'"
    if model.config._attn_implementation != EAGER:
        return (
            f"it runs {model.config._attn_implementation!r}, which hides its scores; load it with "
            "attn_implementation='eager'"
        )
    return ""


def _scores(
    model: Any, trial: Trial, bias: Tensor | None, replay: list[Tensor] | None = None
) -> tuple[tuple[Any, ...], list[Tensor]]:
    """Run the model; return the configs that it made masks for, and the scores of every softmax."""
    recorder = Recorder()
    # A frame for any config: which ones the model makes masks for is found out here.
    frame = Frame(recorder=recorder, bias=bias, adds_to_mask=True, configs=None)
    with using(frame), SoftmaxWatch(replay) as watch:
        trial.run(model)
    configs = {id(config): config for config in recorder.configs if config is not None}
    return tuple(configs.values()), watch.scores


def _compare(
    plain: list[Tensor], steered: list[Tensor], bias: Tensor, layers: int | None
) -> tuple[str, list[int], bool]:
    """Compare scores with a bias and without.

    Returns:
        Why they do not differ by the bias alone, or ""; the heads of each layer; and whether the
        first query sees one key alone.

    """
    if len(plain) != len(steered):
        return "it takes another way with a bias in its mask", [], True
    rows, tokens = bias.shape
    heads, is_causal = [], True
    for one, other in zip(plain, steered, strict=True):
        is_attention = one.dim() > 2 and one.shape[-1] == tokens and one.shape[-2] == tokens
        difference = (other.double() - one.double()).masked_fill(one < HIDDEN, 0)
        allowed = _TOLERANCE.get(one.dtype, 1e-4) * float(
            one.double().masked_fill(one < HIDDEN, 0).abs().max() + bias.abs().max()
        )
        if not is_attention:
            if float(difference.abs().max()) > allowed:
                return "something else than attention reads its mask", [], True
            continue
        if one.numel() % (rows * tokens * tokens):
            return "its scores are not those of every query and key", [], True
        wanted = bias.to(one.device, torch.float64)[:, None, None].expand(-1, 1, tokens, -1)
        found = difference.reshape(rows, -1, tokens, tokens)
        hidden = (one < HIDDEN).reshape(found.shape)
        if float((found - wanted).masked_fill(hidden, 0).abs().max()) > allowed:
            reached = bool(found.masked_fill(hidden, 0).any())
            return f"its scores {_HOW[reached]}", [], True
        if bool((other.reshape(found.shape)[hidden] > HIDDEN / 2).any()):
            return "a bias shows keys that its mask hides", [], True
        heads.append(found.shape[1])
        is_causal = is_causal and bool(hidden[-1, :, 0, 1:].all())  # the row without padding
    if not heads:
        return "no softmax over its keys was seen", [], True
    if layers is not None and len(heads) != layers:
        return f"{len(heads)} of its {layers} layers take a softmax over their keys", [], True
    return "", heads, is_causal
