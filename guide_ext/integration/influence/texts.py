# SPDX-License-Identifier: MIT
"""Tell the two texts of an encoder–decoder apart in its inputs, and describe each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from guide_ext.influence.result import Influence
from guide_ext.integration.call.arguments import DECODER_SEED
from guide_ext.integration.call.source import first_token


def with_target(model: Any, inputs: Mapping[str, Any], seed: Tensor) -> dict[str, Any]:
    """Return the inputs of `forward` with a target; the token that texts begin with, if none.

    Args:
        model: An enabled encoder–decoder.
        inputs: Arguments of its `forward`.
        seed: ``guide_seed``.

    Raises:
        ValueError: If the target is to be made of labels, its marks have another length, or nothing
            tells what a text begins with.

    """
    given = dict(inputs)
    if given.get("labels") is not None:
        raise ValueError(
            "labels must be left out to measure Influence, got a "
            f"{type(given['labels']).__name__}; give decoder_input_ids, as the decoder reads them"
        )
    target = _target_in(given)
    if target is None:
        start = first_token(lambda name: getattr(model.generation_config, name, None))
        if start is None:
            raise ValueError(
                "decoder_input_ids must be given to a model without a decoder_start_token_id, got "
                f"none for a {type(model).__name__}"
            )
        if given.get(DECODER_SEED) is not None:
            raise ValueError(
                f"{DECODER_SEED} must come with decoder_input_ids, whose tokens it counts, got none"
            )
        first = torch.as_tensor(start, device=seed.device).reshape(-1, 1)
        given["decoder_input_ids"] = target = first.expand(seed.shape[0], 1)
    marked = given.get(DECODER_SEED)
    if isinstance(marked, Tensor) and marked.dim() == 3 and marked.shape[2] != target.shape[1]:
        raise ValueError(
            f"{DECODER_SEED} must be [batch, groups, tokens] with {target.shape[1]} tokens, as "
            f"decoder_input_ids has, got shape {list(marked.shape)}; put 0 where nothing is marked"
        )
    return given


def target_of(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return ids and mask of the target under the names that a model with one text has."""
    return {
        "input_ids": inputs.get("decoder_input_ids"),
        "attention_mask": inputs.get("decoder_attention_mask"),
    }


def prompt_tokens(inputs: Mapping[str, Any]) -> int:
    """Return how many tokens of a target that `generate()` returns were not generated."""
    target = _target_in(inputs)
    return 1 if target is None else target.shape[1]


def source_of_inputs(inputs: Mapping[str, Any], positions: int) -> dict[str, Any]:
    """Return ids and mask of the source. Sound has none that count its positions."""
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    counts = isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[1] == positions
    return {"input_ids": ids, "attention_mask": mask if counts else None}


def repeated(measured: Influence, rows: int) -> Influence:
    """Repeat every row, so that beams and further sequences of one source have one each."""
    times = rows // measured.values.shape[0]
    if times == 1:
        return measured
    return replace(
        measured,
        **{
            name: tensor.repeat_interleave(times, 0)
            for name in ("values", "mask", "token_ids", "by_head")
            if (tensor := getattr(measured, name)) is not None
        },
    )


def _target_in(inputs: Mapping[str, Any]) -> Tensor | None:
    for name in ("decoder_input_ids", "decoder_inputs_embeds"):
        found = inputs.get(name)
        if isinstance(found, Tensor):
            return found
    return None
