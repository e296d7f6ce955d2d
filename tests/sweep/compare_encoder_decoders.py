# SPDX-License-Identifier: MIT
"""Compare a steered encoder–decoder with its own eager attention, of which nothing is ours."""

from __future__ import annotations

from typing import Any

import torch
from encoder_decoders import steered_eager
from torch import Tensor
from transformers import GenerationMixin

import guide_ext.integration as guide
from guide_ext.integration.model.trial import trial_of

from .build import VOCABULARY
from .compare import DELTA, SETTINGS, TOKENS, TOLERANCE, Verdict, refusal, settle

TARGET = 12
PADDING = 3


def compare_encoder_decoder(model: Any) -> Verdict:
    """Judge a model: both texts steered in a pass, strengths, generation from a cache, Influence.

    Args:
        model: A small model under eager attention, see `build.build`.

    """
    try:
        guide.disable(guide.enable(model))
    except guide.UnsupportedModelError as error:
        return refusal(error)
    source, target = _source(model), _target(model)
    with torch.no_grad():
        positions = model.get_encoder()(*source.values())[0].shape[1]
    of_source, of_target = _marks(positions, 1), _marks(TARGET, PADDING + 1)
    both = {"guide_bias": of_source, "guide_decoder_bias": of_target}
    inputs = {**source, **target}
    plain = _logits(model, inputs)
    with steered_eager(model, source=of_source, target=of_target):
        wanted = _logits(model, inputs)
    generates = type(model).generate is GenerationMixin.generate
    with steered_eager(model, source=of_source):
        one = _logits(model, inputs)
        generated = _generated(model, source) if generates else None
    guide.enable(model)
    table = torch.ones(2, *guide.table_size(model))
    steps = {
        "plain": lambda: _relative(_logits(model, inputs), plain),
        "steered": lambda: _relative(_logits(model, inputs, **both), wanted),
        "source": lambda: _relative(_logits(model, inputs, guide_bias=of_source), one),
        "strength": lambda: max(
            _relative(_logits(model, inputs, guide_strength=table, **both), wanted),
            _relative(_logits(model, inputs, guide_strength=0 * table, **both), plain),
        ),
    }
    verdict = Verdict("exact")
    if generates:
        steps["generated"] = lambda: _relative(
            _generated(model, source, guide_bias=of_source), generated
        )
    else:
        verdict.note = "forward() alone: its generate() is its own"
    for name, step in steps.items():
        try:
            verdict.errors[name] = step()
        except ValueError as error:
            return Verdict("fails", f"{name}: {error}", verdict.errors)
    # Where neither we nor the reference reach the encoder, they agree.
    states = [_states(model, inputs, **how) for how in ({}, {"guide_bias": of_source})]
    effects = _relative(wanted, one), _relative(one, plain), _relative(*states)
    settle(verdict, min(effects))
    verdict.influence = _influence(model, inputs, both, positions)
    return verdict


def _influence(
    model: Any, inputs: dict[str, Tensor], both: dict[str, Tensor], positions: int
) -> str:
    """Measure two groups that divide both texts; what they have of each token sums to 1."""
    halves = [torch.zeros(2, 2, size) for size in (positions, TARGET)]
    for half in halves:
        half[:, 0, ::2] = half[:, 1, 1::2] = 1
    marks = {"guide_seed": halves[0], "guide_decoder_seed": halves[1]}
    try:
        found = guide.influence(model, {**inputs, **both, **marks})
    except ValueError as error:
        return f"refused: {error}"
    sums = [text.values.sum(2)[text.mask[:, None].expand_as(text.values[:, :, 0])]
            for text in (found.source, found)]  # fmt: skip
    off = max(float((one - 1).abs().max()) for one in sums)
    return "measured" if off <= TOLERANCE else f"wrong: groups sum to 1 within {off:.2g} only"


def _source(model: Any) -> dict[str, Tensor]:
    """What the encoder reads; text has padding on the right of its first row."""
    name = model.main_input_name
    if name != "input_ids":
        return {name: trial_of(model).inputs[name]}
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(2, TOKENS, dtype=torch.long)
    mask[0, -PADDING:] = 0
    ids = torch.randint(3, VOCABULARY - 3, (2, TOKENS), generator=generator)
    return {"input_ids": ids, "attention_mask": mask}


def _target(model: Any) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(3, VOCABULARY - 3, (2, TARGET), generator=generator)
    return {"decoder_input_ids": ids}


def _marks(tokens: int, first: int) -> Tensor:
    bias = torch.zeros(2, tokens)
    bias[0, first : first + 3] = DELTA
    bias[1, first + 1 : first + 3] = -DELTA
    bias[:, min(first + 4, tokens - 1)] = DELTA
    return bias


@torch.no_grad()
def _logits(model: Any, inputs: dict[str, Tensor], **steering: Tensor) -> Tensor:
    return model(**inputs, **steering, use_cache=False).logits


@torch.no_grad()
def _states(model: Any, inputs: dict[str, Tensor], **steering: Tensor) -> Tensor:
    """Return what the encoder gives to the decoder."""
    states: list[Tensor] = []
    handle = model.get_encoder().register_forward_hook(
        lambda module, args, output: states.append(output[0])
    )
    model(**inputs, **steering, use_cache=False)
    handle.remove()
    return states[0]


def _generated(model: Any, source: dict[str, Tensor], **steering: Tensor) -> Tensor:
    """Return the logits of each new token; after another token they would be far off."""
    output = model.generate(**source, **steering, **SETTINGS)
    return torch.stack(output.logits, dim=1)


def _relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).double().abs().max() / wanted.double().abs().max())
