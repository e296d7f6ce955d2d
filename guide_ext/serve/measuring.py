# SPDX-License-Identifier: MIT
"""What the routes of our own compute, by the thread that generates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from guide_ext.calibration.calibration import Calibration
from guide_ext.integration.calibrate import calibrate
from guide_ext.integration.compare import measure_prompt, token_texts
from guide_ext.integration.influence.measure import influence
from guide_ext.integration.inputs import encode
from guide_ext.marking.tokens import Encoding
from guide_ext.serve.prompts import Prepared, Prompts


def tokens_of(prompts: Prompts, prompt: Prepared) -> list[dict[str, Any]]:
    """Return every token of a prompt: its id, what it adds to the text, its nats, its mark."""
    encoding = prompt.encoding
    texts = token_texts(prompts.tokenizer, encoding.input_ids)
    marked = {
        token
        for span in encoding.token_spans
        if span.group is None
        for token in range(span.start, span.end)
    }
    rows = zip(encoding.input_ids, texts, prompt.nats, strict=True)
    return [
        {
            "id": token,
            "text": text,
            "nats": nats if prompt.min_share is None else None,
            "marked": place in marked,
        }
        for place, (token, text, nats) in enumerate(rows)
    ]


def measured(
    prompts: Prompts,
    prompt: Prepared,
    form: str,
    max_tokens: int,
    name: str,
    on_values: Callable[[str, Tensor], None] | None = None,
) -> dict[str, Any]:
    """Return how far the marks reach, plain and guided.

    Args:
        prompts: The model.
        prompt: A prompt with marks.
        form: Form of Influence.
        max_tokens: Longest answer to measure; 0 for the prompt alone.
        name: What clients call the model.
        on_values: See `measure_prompt`.

    Returns:
        With an answer, the record of ``guide-ext influence``; without, the Influence of the
        prompt's tokens, ``values[group][level][token]``, under the bias.

    """
    model, tokenizer = prompts.model, prompts.tokenizer
    with torch.inference_mode():
        if max_tokens:
            return measure_prompt(
                model, tokenizer, prompt.encoding, delta=prompt.delta, form=form,
                max_new_tokens=max_tokens, model_name=name, on_values=on_values,
            )  # fmt: skip
        inputs = encode(model, tokenizer, prompt.encoding, steering=prompt.steering)
        groups = prompt.encoding.groups() or {"marked": _marked(prompt.encoding)}
        seed = torch.tensor([[list(flags) for flags in groups.values()]], dtype=torch.float32)
        inputs["guide_seed"] = seed.to(inputs["input_ids"].device)
        found = influence(model, inputs, form=form, groups=list(groups))
    return {"form": form, "groups": list(groups), "values": rounded(found.values[0])}


def _marked(encoding: Encoding) -> list[bool]:
    flags = [False] * len(encoding.input_ids)
    for span in encoding.token_spans:
        flags[span.start : span.end] = [True] * (span.end - span.start)
    return flags


def rounded(values: Tensor) -> list[list[list[float | None]]]:
    """Return Influence ``[levels, groups, tokens]`` as ``[group][level][token]``, six digits.

    Example:
        >>> rounded(torch.tensor([[[0.25, float("nan")]]]))
        [[[0.25, None]]]

    """
    return [
        [[round(value, 6) if math.isfinite(value) else None for value in level] for level in group]
        for group in values.transpose(0, 1).tolist()
    ]


def calibrated(
    prompts: Prompts, text: Any, roles: tuple[str, ...], target: str | float, form: str, most: float
) -> Calibration:
    """Return the Δ that gives the marks of a prompt the Influence of an emphasis in plain writing.

    Args:
        prompts: The model.
        text: The prompt, a text or a chat, tags included.
        roles: Roles whose tags act.
        target: See `calibrate`.
        form: Form of Influence.
        most: Largest Δ to try, nats.

    """
    with torch.inference_mode():
        return calibrate(
            prompts.model, prompts.tokenizer, text, target=target, form=form, max_delta=most,
            trusted_roles=roles,
        )  # fmt: skip
