# SPDX-License-Identifier: MIT
"""Compare a steered model with its own eager attention, of which nothing is ours.

The reference wraps what a model's eager attention function is handed and adds the bias to the mask
there, behind everything that the model made of it. Whole texts, no cache: key j is token j.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from eager_calls import add_to_mask, changed
from torch import Tensor, nn
from transformers import PreTrainedModel

import guide_ext.integration as guide
from guide_ext.integration.model.state import state_of

from .build import VOCABULARY, WINDOW

# Longer than every window, selection, chunk and compression of the small models.
TOKENS = 3 * WINDOW + 5
PADDING = 3
DELTA = 2.0
NEW_TOKENS = 6
# Largest difference of logits, relative to the largest: float32 models differ by some 1e-6; what
# the sweep is to find, a missing bias or another selection, by more than 1e-2.
TOLERANCE = 5e-4


@dataclass
class Verdict:
    """What came out for one type.

    Attributes:
        kind: ``exact``, ``exact, dense``, ``exact, by mask``, ``refused``, ``not run`` (eager
            attention fails on this text, too), ``fails`` or ``WRONG``.
        note: Why.
        errors: Relative differences, by what was compared.
        influence: ``measured`` or ``refused``.

    """

    kind: str
    note: str = ""
    errors: dict[str, float] = field(default_factory=dict)
    influence: str = ""


def compare(model: Any) -> Verdict:
    """Judge a model: prefill, cached generation, left padding, strengths, Influence.

    Args:
        model: A small model under eager attention, see `build.build`.

    """
    try:
        kind = state_of(guide.enable(model)).findings.implementation
    except guide.UnsupportedModelError as error:
        return refusal(error)
    guide.disable(model)
    inputs, bias = prompts(0 if _reads_padding(model) else PADDING), marks()
    plain, wanted = _whole(model, inputs, None), _whole(model, inputs, bias)
    guide.enable(model)
    kinds = {"guide": "exact", "guide_dense": "exact, dense", "eager": "exact, by mask"}
    verdict = Verdict(kinds[kind])
    steps = {
        "plain": lambda: _relative(logits_of(model, inputs), plain, inputs),
        "steered": lambda: _relative(logits_of(model, inputs, guide_bias=bias), wanted, inputs),
        "strength": lambda: _strengths(model, inputs, bias, plain, wanted),
    }
    if not state_of(model).findings.pads_right:  # an encoder does not generate
        steps["generated"] = lambda: _generated(model, inputs, bias)
    for name, step in steps.items():
        try:
            verdict.errors[name] = step()
        except ValueError as error:
            if name != "strength":
                return Verdict("fails", f"{name}: {error}", verdict.errors)
            verdict.note = f"no strengths: {error}"
    settle(verdict, _relative(wanted, plain, inputs))
    try:
        guide.influence(model, {**inputs, "guide_bias": bias, "guide_seed": bias[:, None] > 0})
        verdict.influence = "measured"
    except ValueError as error:
        verdict.influence = f"refused: {error}"
    return verdict


def refusal(error: ValueError) -> Verdict:
    """Return the verdict on a model that `enable` refuses."""
    # A model that fails by itself on text says nothing of steering.
    return Verdict("not run" if "must be able to run" in str(error) else "refused", str(error))


def settle(verdict: Verdict, effect: float) -> Verdict:
    """Say of a verdict whether it is wrong, by its errors and by how far the bias moved logits."""
    wrong = {name: error for name, error in verdict.errors.items() if not error <= TOLERANCE}
    if wrong:
        verdict.kind = "WRONG"
        verdict.note = ", ".join(f"{name} {error:.2g}" for name, error in wrong.items())
    elif effect < TOLERANCE:
        verdict.kind, verdict.note = "fails", f"the bias moves no logit (by {effect:.1g})"
    return verdict


def _reads_padding(model: Any) -> bool:
    """Say whether tokens depend on padding, so that transformers' own ways differ.

    What a row of padding attends to is nothing under SDPA, and everything under eager attention;
    some indexers look at the keys that come out of it.
    """
    if not model._supports_sdpa:
        return False
    wanted = logits_of(model, prompts())
    model.set_attn_implementation("sdpa")
    try:
        return _relative(logits_of(model, prompts()), wanted, prompts()) > TOLERANCE
    finally:
        model.set_attn_implementation("eager")


def prompts(padding: int = PADDING) -> dict[str, Tensor]:
    """Two rows of token ids, the first with left padding."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(3, VOCABULARY - 3, (2, TOKENS), generator=generator)
    attention_mask = torch.ones(2, TOKENS, dtype=torch.long)
    attention_mask[0, :padding] = 0
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def marks() -> Tensor:
    """Nats on two spans of either row, one near the end, so that every window sees it."""
    bias = torch.zeros(2, TOKENS)
    bias[0, PADDING + 2 : PADDING + 5] = DELTA
    bias[1, 1:4] = DELTA
    bias[:, -3:-1] = DELTA
    return bias


SETTINGS = {
    "max_new_tokens": NEW_TOKENS,
    "do_sample": False,
    "pad_token_id": 0,
    "return_dict_in_generate": True,
    "output_logits": True,
}


@dataclass
class Total:
    """Tokens of a text so far."""

    tokens: int = 0


@contextmanager
def adding_to_masks(model: Any, bias: Tensor | None, total: Total) -> Iterator[None]:
    """Add nats to the masks that a model with attention of its own makes, in a ``with`` block.

    Args:
        model: The model; its module makes its masks by transformers' functions.
        bias: As for `adding`.
        total: As for `adding`.

    """
    module = sys.modules[type(model).__mro__[1 if guide.is_enabled(model) else 0].__module__]
    makers = {
        name: make
        for name, make in vars(module).items()
        if name.startswith("create_") and name.endswith("_mask")
    }

    def with_bias(make: Any) -> Any:
        def made(*args: Any, **kwargs: Any) -> Any:
            mask = make(*args, **kwargs)
            nats = F.pad(bias, (0, total.tokens - bias.shape[1]))[:, -mask.shape[-1] :]
            return mask + nats[:, None, None]

        return made

    if bias is not None:
        vars(module).update({name: with_bias(make) for name, make in makers.items()})
    try:
        yield
    finally:
        vars(module).update(makers)


@contextmanager
def adding(bias: Tensor | None, total: Total, of: nn.Module | None = None) -> Iterator[None]:
    """Add nats to the mask that every eager attention function is handed in a ``with`` block.

    Args:
        bias: ``[batch, tokens]``, or None to change nothing.
        total: Tokens of the text so far; the keys of a layer are the last of them.
        of: The part of a model whose attention it is, or None for all of it.

    """
    parts = None if of is None else set(of.modules())

    def add(given: dict[str, Any]) -> None:
        if bias is None or (parts is not None and given["module"] not in parts):
            return
        query, seqlen_k = given["query"], given["key"].shape[2]
        nats = F.pad(bias, (0, total.tokens - bias.shape[1]))[:, -seqlen_k:]
        add_to_mask(given, nats[:, None, None].to(query.dtype).expand(-1, -1, query.shape[2], -1))

    with changed(add):
        yield


def _whole(model: Any, inputs: dict[str, Tensor], bias: Tensor | None) -> Tensor:
    """Logits of eager attention, of the whole text at once."""
    with _biased(model, bias, Total(inputs["input_ids"].shape[1])):
        return logits_of(model, inputs)


def _biased(model: Any, bias: Tensor | None, total: Total) -> AbstractContextManager[None]:
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    if any(part._can_set_attn_implementation() for part in parts):
        return adding(bias, total)
    return adding_to_masks(model, bias, total)


def _eager_generation(model: Any, inputs: dict[str, Tensor], bias: Tensor) -> Tensor:
    """Logits of eager attention behind the prompt, generated from a cache."""
    total = Total()

    def count(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        total.tokens += (args[0] if args else kwargs["input_ids"]).shape[1]

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        with _biased(model, bias, total):
            return torch.stack(model.generate(**inputs, **SETTINGS).logits, dim=1)
    finally:
        handle.remove()


@torch.no_grad()
def logits_of(model: Any, inputs: dict[str, Tensor], **arguments: Any) -> Tensor:
    output = model(**inputs, **arguments, use_cache=False)
    return output.logits if hasattr(output, "logits") else output[0]


def _relative(found: Tensor, wanted: Tensor, inputs: dict[str, Tensor] | None = None) -> float:
    if inputs is not None:
        real = inputs["attention_mask"].bool()
        found, wanted = found[real], wanted[real]
    return float((found - wanted).double().abs().max() / wanted.double().abs().max())


def _strengths(
    model: Any, inputs: dict[str, Tensor], bias: Tensor, plain: Tensor, wanted: Tensor
) -> float:
    """All strengths 1 are no strengths, and all 0 no bias."""
    layers, heads = guide.table_size(model)
    ones = torch.ones(2, layers, heads)
    return max(
        _relative(logits_of(model, inputs, guide_bias=bias, guide_strength=table), right, inputs)
        for table, right in ((ones, wanted), (0 * ones, plain))
    )


def _generated(model: Any, inputs: dict[str, Tensor], bias: Tensor) -> float:
    """Compare the logits of every generated token with eager attention.

    With those of the whole text or with those from a cache: some models compute other ones there,
    by themselves, as selections that are nearly a tie fall otherwise.
    """
    steered = model.generate(**inputs, guide_bias=bias, **SETTINGS)
    found = torch.stack(steered.logits, dim=1)
    mask = F.pad(inputs["attention_mask"], (0, NEW_TOKENS - 1), value=1)
    whole = {"input_ids": steered.sequences[:, :-1], "attention_mask": mask}
    if "position_ids" in inspect.signature(model.forward).parameters:
        whole["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    guide.disable(model).set_attn_implementation("eager")
    try:
        error = _relative(found, _whole(model, whole, bias)[:, -NEW_TOKENS:])
        if error <= TOLERANCE:
            return error
        return min(error, _relative(found, _eager_generation(model, inputs, bias)))
    finally:
        guide.enable(model)
