# SPDX-License-Identifier: MIT
"""Measure Influence while a model runs: on a prompt, and on every token that it generates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from guide_ext.influence.forms import Form, form_named
from guide_ext.influence.result import Influence
from guide_ext.integration.influence.hooks import requesting
from guide_ext.integration.influence.results import (
    end_tokens_of,
    of_sequences,
    present_tokens,
    result_of,
    seed_of_inputs,
    without_logits,
)
from guide_ext.integration.influence.state import InfluenceState, Request
from guide_ext.integration.influence.texts import (
    prompt_tokens,
    repeated,
    source_of_inputs,
    target_of,
    with_target,
)
from guide_ext.integration.model.state import refuse_two_texts, state_of, table_size


def influence(
    model: Any,
    inputs: Mapping[str, Any],
    *,
    form: str = "paper",
    groups: Sequence[str] | None = None,
    by_head: bool = False,
) -> Influence:
    """Measure how far groups of tokens of a prompt reach into each of its tokens, at every layer.

    This runs one forward pass, which measuring makes a few percent slower. Memory grows with
    layers · tokens · groups, never with the square of the tokens. With ``guide_bias`` among the
    inputs, the Influence under that bias is measured.

    In an encoder–decoder, ``guide_seed`` marks what the encoder reads, and ``guide_decoder_seed``
    of the same groups what the decoder does. Without ``decoder_input_ids``, the decoder reads the
    one token that every text begins with, as the first step of ``generate()`` does.

    Args:
        model: An enabled model.
        inputs: What `encode` returned for prompts with ``<?->`` tags; or arguments of the model's
            `forward` with ``guide_seed``, ``[batch, groups, tokens]``, 1 on the tokens of a group.
        form: Name of the recursion, see `guide_ext.influence.form_named`.
        groups: Names of the groups; None for the names in the tags.
        by_head: Whether to keep the attention of each head to the groups, too.

    Returns:
        Influence; its `values` are ``[batch, layers + 1, groups, tokens]``. Of an encoder–decoder,
        the Influence on the target, with that on the source as its `source`.

    Raises:
        UnsupportedModelError: If what an attention layer adds to the residual stream cannot be
            found.
        ValueError: If the model is not enabled, nothing is marked, there is no such form, the
            names do not fit the groups, or the form is ``"authors"`` and the model an
            encoder–decoder, of which the authors' code says nothing.

    Example:
        >>> import torch
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> inputs = guide.encode(model, tokenizer, "<?rule->Summarize in French<-?rule>: the cat")
        >>> measured = guide.influence(model, inputs)
        >>> measured.groups, measured.values.shape[1] == model.config.num_hidden_layers + 1
        (('rule',), True)

    """
    seed, names = seed_of_inputs(inputs, groups)
    return _measured(model, inputs, seed, names, Request(model, form_named(form), by_head))[0]


def influence_in_forms(
    model: Any,
    inputs: Mapping[str, Any],
    forms: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
) -> dict[str, Influence]:
    """Measure several forms of Influence of a prompt in one forward pass.

    The kernel reduces the channels of all forms at once. Each is what `influence` returns for it.

    Args:
        model: An enabled model.
        inputs: See `influence`.
        forms: Names of the recursions, see `guide_ext.influence.form_named`; at least one, each
            once.
        groups: Names of the groups; None for the names in the tags.

    Raises:
        UnsupportedModelError: As `influence` does.
        ValueError: As `influence` does; or if there are no forms, or one comes twice.

    Example:
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> inputs = guide.encode(model, tokenizer, "<?rule->Summarize in French<-?rule>: the cat")
        >>> measured = influence_in_forms(model, inputs, ["paper", "rollout"])
        >>> alone = guide.influence(model, inputs, form="rollout")
        >>> bool((measured["rollout"].values == alone.values).all())
        True

    """
    if isinstance(forms, str) or not forms or len(set(forms)) != len(forms):
        raise ValueError(f"forms must be names of forms, each once, got {forms!r}")
    seed, names = seed_of_inputs(inputs, groups)
    first, *others = (form_named(form) for form in forms)
    found = _measured(model, inputs, seed, names, Request(model, first, beside=tuple(others)))
    return {one.form: one for one in found}


def norm_ratios(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    """Measure how much larger the residual stream is than what attention adds to it.

    Args:
        model: An enabled model.
        inputs: Arguments of the model's `forward`, with ``input_ids``. A ``guide_bias`` steers.

    Returns:
        ``r = |E| / |U|``, L2, of each token at each attention layer, ``[batch, layers, tokens]``,
        float32; NaN on padding.

    Raises:
        UnsupportedModelError: If what an attention layer adds to the residual stream cannot be
            found.
        ValueError: If the model is not enabled, or is an encoder–decoder.

    Source:
        The paper, App. A, Fig. 3 left.

    Example:
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> inputs = guide.encode(model, tokenizer, "Summarize in French: the cat sleeps.")
        >>> norm_ratios(model, inputs).shape[1] == model.config.num_hidden_layers
        True

    """
    table_size(model)  # raises if the model is not enabled
    refuse_two_texts(model, "norm_ratios()")
    rows, tokens = inputs["input_ids"].shape
    nothing = torch.zeros(rows, 1, tokens, device=inputs["input_ids"].device)
    measured = _measured(model, inputs, nothing, ("",), Request(model, _RATIO))[0]
    found = measured.values[:, 1:, 0]
    return found.masked_fill(~measured.mask[:, None], float("nan"))


def _ratio(previous: Tensor, attended: Tensor, residual: Tensor, update: Tensor) -> Tensor:
    return residual / update


# A recursion that ignores the levels before: the level after a layer is the ratio in that layer.
_RATIO = Form("ratio", 2, False, False, _ratio)


def _measured(
    model: Any, inputs: Mapping[str, Any], seed: Tensor, names: tuple[str, ...], request: Request
) -> list[Influence]:
    """Measure in one pass without a cache; return a result for each form."""
    forward = {name: value for name, value in inputs.items() if name != "guide_seed"}
    with requesting(request), torch.no_grad():  # raises if the model is not enabled
        if state_of(model).findings.has_encoder:
            forward = with_target(model, forward, seed)
        model(**forward, **without_logits(model), guide_seed=seed, use_cache=False)
    state = request.state
    if state is None:
        raise RuntimeError("the model ran without its own forward(): nothing was measured")
    if request.source is None:
        tokens = seed.shape[2]
        return [
            result_of(one.stacked(tokens), one, names, forward, tokens) for one in state.together
        ]
    described = target_of(forward)
    tokens = state.filled
    found = [
        result_of(one.stacked(tokens), one, names, described, tokens) for one in state.together
    ]
    sources = _of_source(request.source, names, forward, found[0].values.shape[0])
    return [replace(one, source=other) for one, other in zip(found, sources, strict=True)]


def _of_source(
    state: InfluenceState, names: tuple[str, ...], inputs: Mapping[str, Any], rows: int
) -> list[Influence]:
    """Return the Influence on a source in each form, repeated for `rows` of the target."""
    positions = state.filled
    described = source_of_inputs(inputs, positions)
    return [
        repeated(result_of(one.stacked(positions), one, names, described, positions), rows)
        for one in state.together
    ]


def generate_with_influence(
    model: Any,
    inputs: Mapping[str, Any],
    *,
    form: str = "paper",
    groups: Sequence[str] | None = None,
    on_values: Callable[[Tensor], None] | None = None,
    **generation: Any,
) -> tuple[Any, Influence]:
    """Generate, and measure the Influence of groups of the prompt on every token at the same time.

    Nothing is computed twice: the Influence of earlier tokens is kept like their keys in the cache.

    Args:
        model: An enabled model.
        inputs: See `influence`; ``input_ids`` must be among them, but for an encoder–decoder that
            reads something else.
        form: Name of the recursion, see `guide_ext.influence.form_named`.
        groups: Names of the groups; None for the names in the tags.
        on_values: Called after every step with the Influence of the tokens that the step has read,
            ``[batch, layers + 1, groups, tokens]``, float32, on the CPU: first of the prompts,
            padding included, then of one token each. Not for beams.
        **generation: Arguments of the model's `generate()`: sampling, beams, caches.

    Returns:
        What `generate()` returns, and the Influence of its sequences without their last tokens. The
        model writes the last token but never reads it, so it has no Influence.

    Raises:
        UnsupportedModelError: If what an attention layer adds to the residual stream cannot be
            found.
        ValueError: As in `influence`; or if the inputs have no ``input_ids``, a given cache
            holds tokens that were not measured, or there are beams without a cache.

    Example:
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> inputs = guide.encode(model, tokenizer, "<?rule->Summarize in French<-?rule>: the cat")
        >>> output, measured = guide.generate_with_influence(model, inputs, max_new_tokens=4)
        >>> measured.values.shape[3] == output.shape[1] - 1
        True

    """
    seed, names = seed_of_inputs(inputs, groups)
    table_size(model)  # raises if the model is not enabled
    has_encoder = state_of(model).findings.has_encoder
    if not has_encoder and not isinstance(inputs.get("input_ids"), Tensor):
        raise ValueError(
            "inputs must have input_ids, [batch, tokens], so that every token of the answer has "
            f"its place, got {', '.join(inputs)}"
        )
    request = Request(model, form_named(form))
    if on_values is not None:
        refuse_two_texts(model, "on_values")
        generation["streamer"] = _ValuesStream(request, on_values, generation.get("streamer"))
    wants_dict = generation.pop("return_dict_in_generate", False)
    given = generation.get("generation_config")
    if given is None:
        generation["return_dict_in_generate"] = True
    else:  # transformers warns of further arguments beside a generation_config
        generation["generation_config"] = copy.copy(given)
        generation["generation_config"].return_dict_in_generate = True
    with requesting(request):
        output = model.generate(**{**inputs, "guide_seed": seed}, **generation)
    sequences = output.sequences
    state = request.state
    if state is None:
        raise RuntimeError("generate() ran without the model's own steps: nothing was measured")
    beam_indices = getattr(output, "beam_indices", None)
    own = target_of(inputs) if has_encoder else inputs
    prompt = prompt_tokens(inputs) if has_encoder else seed.shape[2]
    described = {
        "input_ids": sequences[:, :-1],
        "attention_mask": present_tokens(
            sequences, prompt, own.get("attention_mask"), beam_indices,
            end_tokens_of(model, generation),
        ),
    }  # fmt: skip
    values = of_sequences(state, beam_indices, sequences)
    result = result_of(values, state, names, described, prompt)
    if request.source is not None:
        source = _of_source(request.source, names, inputs, sequences.shape[0])
        result = replace(result, source=source[0])
    return (output if wants_dict else sequences), result


class _ValuesStream(BaseStreamer):  # type: ignore[misc]
    """Hands on what each step has measured; `generate()` calls it with the tokens of the step."""

    def __init__(
        self, request: Request, on_values: Callable[[Tensor], None], beside: BaseStreamer | None
    ) -> None:
        self._request, self._on_values, self._beside = request, on_values, beside
        self._seen = 0

    def put(self, value: Tensor) -> None:
        """Take the prompts, for which nothing is measured yet, then the tokens of each step."""
        state = self._request.state
        if state is not None:
            new = [level[:, :, self._seen : state.filled] for level in state.levels]
            self._seen = state.filled
            self._on_values(torch.stack(new, 1).float().cpu())
        if self._beside is not None:
            self._beside.put(value)

    def end(self) -> None:
        """Hand on the end."""
        if self._beside is not None:
            self._beside.end()
