# SPDX-License-Identifier: MIT
"""The state that `enable` keeps on a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from guide_ext.integration.model.verify import Findings

MODEL_STATE = "_guide_state"


@dataclass
class ModelState:
    """What `enable` did to a model. It is kept on the model, so copies of the model have it, too.

    Attributes:
        findings: What the comparison with eager attention found.
        implementations_before: Every config with the attention implementation that it had before.
        methods_before: For each replaced method, the instance attribute of that name that the model
            had before; None if only its class had the method.
        handles: Handles of the hooks.
        is_watched: Whether the hooks for Influence are among them; the first measurement adds them.
        is_tried_packed: Whether calls of continuous batching were compared with others.

    """

    findings: Findings
    implementations_before: list[tuple[Any, Any]]
    methods_before: dict[str, Any]
    handles: list[RemovableHandle] = field(default_factory=list)
    is_watched: bool = False
    is_tried_packed: bool = False


def state_of(model: nn.Module) -> ModelState:
    """Return the state of an enabled model."""
    state: ModelState = model.__dict__[MODEL_STATE]
    return state


def forget_compiled_call(model: nn.Module) -> None:
    """Drop what generate() compiled: dynamo does not notice that hooks were added or removed."""
    model.__dict__.pop("_compiled_call", None)


def is_enabled(model: nn.Module) -> bool:
    """Return whether `enable` prepared this model.

    Args:
        model: Any module.

    Example:
        >>> import torch
        >>> from guide_ext import integration as guide
        >>> guide.is_enabled(torch.nn.Linear(1, 1))
        False

    """
    return MODEL_STATE in getattr(model, "__dict__", {})


def table_size(model: nn.Module) -> tuple[int, int]:
    """Return (layers, heads) of the strength table of an enabled model.

    Layers are the attention layers that steering reaches, in the order of their calls. Heads are
    the query heads of a layer, in all processes that share the model.

    Args:
        model: An enabled model.

    Raises:
        ValueError: If the model is not enabled.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from guide_ext import integration as guide
        >>> config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=32,
        ...                      num_hidden_layers=2, num_attention_heads=4)
        >>> guide.table_size(guide.enable(LlamaForCausalLM(config)))
        (2, 4)

    """
    if not is_enabled(model):
        raise ValueError(
            f"model must be enabled, got a {type(model).__name__} that is not; "
            "call guide_ext.integration.enable(model) first"
        )
    findings = state_of(model).findings
    return len(findings.heads), findings.num_heads


def layers_of(model: nn.Module, kind: str) -> tuple[int, ...]:
    """Return the layers of one kind of an encoder–decoder, as `Steering` and `table_size` count.

    Args:
        model: An enabled encoder–decoder.
        kind: ``"encoder"``, what the encoder attends to; ``"cross"``, where the decoder looks at
            the encoder; ``"decoder"``, the decoder's own text.

    Raises:
        ValueError: If the model is not enabled or has no encoder, or there is no such kind.

    Example:
        >>> from transformers import BartConfig, BartForConditionalGeneration
        >>> from guide_ext import integration as guide
        >>> config = BartConfig(vocab_size=64, d_model=32, encoder_layers=2, decoder_layers=1,
        ...                     encoder_attention_heads=4, decoder_attention_heads=4,
        ...                     encoder_ffn_dim=32, decoder_ffn_dim=32)
        >>> model = guide.enable(BartForConditionalGeneration(config))
        >>> guide.layers_of(model, "encoder"), guide.layers_of(model, "cross")
        ((0, 1), (3,))

    """
    table_size(model)  # raises if the model is not enabled
    kinds = state_of(model).findings.kinds
    found = tuple(index for index, own in enumerate(kinds) if own == kind)
    if not found:
        wanted = "encoder, cross or decoder" if kinds else "of an encoder–decoder"
        raise ValueError(f"kind must be {wanted}, got {kind!r} of a {type(model).__name__}")
    return found


def refuse_two_texts(model: nn.Module, what: str) -> None:
    """Raise ValueError if a model is an encoder–decoder.

    Args:
        model: An enabled model.
        what: What needs a model with one text, for the message.

    """
    if state_of(model).findings.has_encoder:
        raise ValueError(
            f"{what} must go to a model with one text, got the encoder–decoder "
            f"{type(model).__name__}"
        )


def refuse_readers_of_both_sides(model: nn.Module, what: str) -> None:
    """Raise ValueError if the tokens of a model see later ones, so that it writes no answers.

    Args:
        model: An enabled model.
        what: What needs a model that goes on with a text, for the message.

    """
    refuse_two_texts(model, what)
    if state_of(model).findings.pads_right:
        raise ValueError(
            f"{what} must go to a model that goes on with a text, got a {type(model).__name__}, "
            "whose tokens see those behind them"
        )


def strength_size(model: nn.Module) -> tuple[int, int]:
    """Return `table_size` of a model whose layers and heads are all known in this process.

    Raises:
        ValueError: If the model is not enabled, or another process has layers or heads that are not
            known here.

    """
    size = table_size(model)
    refuse_unknown_part(model, "guide_strength")
    return size


def refuse_unknown_part(model: nn.Module, what: str) -> None:
    """Raise ValueError if some layers or heads of a model are not known in this process.

    Args:
        model: An enabled model.
        what: What needs all of them, for the message.

    Raises:
        ValueError: If the model is split over processes so that some are not known.

    """
    findings = state_of(model).findings
    if findings.adds_to_mask:
        raise ValueError(
            f"{what} must go to a model that uses transformers' attention interface, got a "
            f"{type(model).__name__}, whose attention is code of its own: a bias in its mask is "
            "the same for all layers and heads"
        )
    part = findings.unknown_part
    if part:
        raise ValueError(
            f"{what} must go to a model with all its layers and heads, in one process or spread "
            f"over several by DistributedConfig(tp_size=...), got {part}"
        )
