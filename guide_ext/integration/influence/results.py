# SPDX-License-Identifier: MIT
"""What was asked to be measured, and the result of what was."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from guide_ext.influence.result import Influence
from guide_ext.integration.influence.state import InfluenceState


def seed_of_inputs(
    inputs: Mapping[str, Any], groups: Sequence[str] | None
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the seed of a batch, ``[batch, groups, tokens]``, and the names of its groups.

    Raises:
        ValueError: If there is none, or it does not fit the text or the names.

    """
    seed = inputs.get("guide_seed")
    if not isinstance(seed, Tensor) or seed.dim() != 3 or 0 in seed.shape:
        raise ValueError(
            "inputs must have guide_seed, [batch, groups, tokens], 1 on the tokens of a group, got "
            f"{list(seed.shape) if isinstance(seed, Tensor) else type(seed).__name__}; mark text "
            "with <?-> ... <-?>, and guide_ext.integration.encode() makes it"
        )
    text = inputs.get("input_ids", inputs.get("inputs_embeds"))
    if isinstance(text, Tensor) and text.dim() > 1 and text.shape[1] != seed.shape[2]:
        raise ValueError(
            f"guide_seed must be [batch, groups, tokens] with {text.shape[1]} tokens, as the text "
            f"has, got shape {list(seed.shape)}; put 0 where nothing is marked"
        )
    names = tuple(getattr(inputs, "groups", ()) if groups is None else groups)
    if groups is None and len(names) != seed.shape[1]:
        names = tuple(str(index) for index in range(seed.shape[1]))
    if len(names) != seed.shape[1]:
        raise ValueError(
            f"groups must name the {seed.shape[1]} groups of guide_seed, got {list(names)}"
        )
    return seed, names


def without_logits(model: Any) -> dict[str, int]:
    """Return arguments that ask for the logits of one token; those of all take much memory."""
    parameters = inspect.signature(model.forward).parameters
    return {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}


def of_sequences(state: InfluenceState, beam_indices: Tensor | None, sequences: Tensor) -> Tensor:
    """Return the levels of every sequence, ``[rows, levels, groups, tokens]``.

    The rows of the state are the rows of the cache. Beam search moves them at every step, and a
    winning sequence may have ended long before the last step. So each sequence is put together from
    what each step wrote for it, see `InfluenceState.history`.
    """
    tokens = sequences.shape[1] - 1
    if beam_indices is None:
        return state.stacked(tokens)
    if not state.history:
        raise ValueError(
            "use_cache must be True to measure Influence with num_beams, as the cache tells how "
            "beams move, got False"
        )
    rows = []
    for path in beam_indices.tolist():
        parts = [state.history[step][row] for step, row in enumerate(path) if row >= 0]
        found = torch.cat(parts, dim=-1)[:, :, :tokens]
        rows.append(F.pad(found, (0, tokens - found.shape[-1])))
    return torch.stack(rows)


def present_tokens(
    sequences: Tensor,
    prompt: int,
    mask: Tensor | None,
    beam_indices: Tensor | None,
    end_tokens: list[int],
) -> Tensor:
    """Return False on padding before the prompt and after the end, ``[rows, tokens - 1]``."""
    sequences = sequences.cpu()
    present = torch.ones_like(sequences, dtype=torch.bool)
    if mask is not None:
        repeats = sequences.shape[0] // mask.shape[0]
        present[:, : mask.shape[1]] = mask.bool().cpu().repeat_interleave(repeats, 0)
    if beam_indices is not None:
        written = (beam_indices.cpu() >= 0).sum(1, keepdim=True)
        # The last token of each is written and not read.
        return (present & (torch.arange(sequences.shape[1]) < prompt + written - 1))[:, :-1]
    ends = torch.isin(sequences[:, prompt:], torch.tensor(end_tokens, dtype=sequences.dtype))
    present[:, prompt:] &= ends.cumsum(1) - ends.long() == 0
    return present[:, :-1]


def end_tokens_of(model: Any, generation: Mapping[str, Any]) -> list[int]:
    """Return the ids of tokens that end a sequence; looks for them as `generate()` does."""
    configs = (generation.get("generation_config"), model.generation_config)
    found = generation.get("eos_token_id")
    for config in configs:
        found = getattr(config, "eos_token_id", None) if found is None else found
    if found is None:
        return []
    return [int(token) for token in (found if isinstance(found, list | tuple) else [found])]


def result_of(
    values: Tensor,
    state: InfluenceState,
    names: tuple[str, ...],
    described: Mapping[str, Any],
    prompt_tokens: int,
) -> Influence:
    """Return the result of a run.

    Args:
        values: Influence, ``[rows, levels, groups, tokens]``; anything on padding.
        state: What the run has left.
        names: Of the groups.
        described: Token ids and the mask of `values`, by the names of ``generate``'s arguments.
        prompt_tokens: How many of the tokens are the prompt's.

    """
    values = values.float().cpu()
    ids = described.get("input_ids")
    mask = described.get("attention_mask")
    present = torch.ones(values.shape[0], values.shape[3], dtype=torch.bool)
    if mask is not None:
        present = mask.bool().cpu()
    by_head = None
    if state.keeps_heads:
        by_head = torch.stack([torch.cat(parts, dim=3) for parts in state.by_head], dim=1)
        by_head = by_head[:, :, : len(names)].float().cpu()
        by_head = by_head * present[:, None, None, None]
    return Influence(
        values=values * present[:, None, None],
        groups=names,
        form=state.form.name,
        mask=present,
        prompt_tokens=prompt_tokens,
        token_ids=None if ids is None else ids.cpu(),
        by_head=by_head,
    )
