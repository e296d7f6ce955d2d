# SPDX-License-Identifier: MIT
"""What the routes of our own compute, by the thread that generates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from guide_ext.calibration.calibration import Calibration
from guide_ext.integration.calibrate import calibrate
from guide_ext.integration.compare import measure_prompt, token_texts
from guide_ext.integration.influence.measure import influence
from guide_ext.integration.inputs import encode
from guide_ext.integration.likelihood import (
    MOST_LOGITS,
    likelihoods_of_rows,
    targets_of,
    vocabulary_of,
)
from guide_ext.integration.side_by_side import Step, measure_side_by_side
from guide_ext.integration.sources import sources
from guide_ext.marking.tokens import Encoding
from guide_ext.serve.errors import ApiError
from guide_ext.serve.prompts import Prepared, Prompts
from guide_ext.serve.schemas import InfluenceRequest, ScoreRequest, SourcesRequest
from guide_ext.serve.wire import LEAST


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
    asked: InfluenceRequest,
    max_tokens: int,
    on_values: Callable[[str, Tensor], None] | None = None,
) -> dict[str, Any]:
    """Return how far the marks reach, plain and guided.

    Args:
        prompts: The model.
        prompt: A prompt with marks.
        asked: The form of Influence, and how answers are decoded.
        max_tokens: Longest answer to measure; 0 for the prompt alone.
        on_values: See `measure_prompt`.

    Returns:
        With an answer, the record of ``guide-ext influence``; without, the Influence of the
        prompt's tokens, ``values[group][level][token]``, under the bias.

    """
    model, tokenizer = prompts.model, prompts.tokenizer
    with torch.inference_mode():
        if max_tokens:
            return measure_prompt(
                model, tokenizer, prompt.encoding, delta=prompt.delta, form=asked.form,
                max_new_tokens=max_tokens, temperature=asked.temperature, seed=asked.seed,
                model_name=asked.model, on_values=on_values,
            )  # fmt: skip
        inputs = encode(model, tokenizer, prompt.encoding, steering=prompt.steering)
        groups = prompt.encoding.groups() or {"marked": _marked(prompt.encoding)}
        seed = torch.tensor([[list(flags) for flags in groups.values()]], dtype=torch.float32)
        inputs["guide_seed"] = seed.to(inputs["input_ids"].device)
        found = influence(model, inputs, form=asked.form, groups=list(groups))
    return {"form": asked.form, "groups": list(groups), "values": rounded(found.values[0])}


def streamed(
    prompts: Prompts,
    prompt: Prepared,
    asked: InfluenceRequest,
    max_tokens: int,
    on_step: Callable[[Step], None],
) -> dict[str, Any]:
    """Return what `measured` does of an answer, and tell every token of both runs as it comes."""
    with torch.inference_mode():
        return measure_side_by_side(
            prompts.model, prompts.tokenizer, prompt.encoding, delta=prompt.delta, form=asked.form,
            max_new_tokens=max_tokens, temperature=asked.temperature, seed=asked.seed,
            model_name=asked.model, on_step=on_step,
        )  # fmt: skip


def told(step: Step) -> dict[str, Any]:
    """Return a step of a stream as an event."""
    logprob = round(step.logprob, 6) if math.isfinite(step.logprob) else None
    return {
        "object": "guide.influence.values",
        "run": step.run,
        "token": {**step.token, "logprob": logprob},
        "values": rounded(step.values),
        "finish_reason": step.reason,
    }


def sources_of(
    prompts: Prompts, prompt: Prepared, answer: list[int], asked: SourcesRequest
) -> dict[str, Any]:
    """Return where a token comes from: the mean of every layer, and heads where they are wanted.

    Args:
        prompts: The model.
        prompt: The prompt.
        answer: Token ids of what follows it.
        asked: The token, and the layers whose heads are wanted.

    """
    found = sources(
        prompts.model, prompts.tokenizer, prompt.encoding, answer, token=asked.token, of=asked.of,
        steering=prompt.steering,
    )  # fmt: skip
    heads = {layer: _six_digits(found.weights[layer]) for layer in asked.layers or ()}
    return {
        "token": found.token,
        "row": found.row,
        "prompt_tokens": found.prompt_tokens,
        "tokens": list(found.tokens),
        "mean": _six_digits(found.mean()),
        "heads": heads,
    }


def answers_of(prompts: Prompts, asked: ScoreRequest) -> list[list[int]]:
    """Return the ways to say an answer as token ids.

    Raises:
        ApiError: If one is empty, or one row of its logits alone is too large.

    """
    try:
        found = targets_of(prompts.tokenizer, asked.answers, exact=asked.exact)
    except ValueError as error:
        raise ApiError(400, str(error), "answers") from None
    vocabulary, longest = vocabulary_of(prompts.model), max(map(len, found))
    if longest * vocabulary > 2 * MOST_LOGITS:
        raise ApiError(
            400, f"answers must be at most {2 * MOST_LOGITS // vocabulary} tokens for a vocabulary "
            f"of {vocabulary}, got {longest}", "answers",
        )  # fmt: skip
    return found


def scored(
    prompts: Prompts,
    prompt: Prepared,
    rows: Sequence[Sequence[float]],
    targets: Sequence[list[int]],
    most_tokens: int,
    before_pass: Callable[[], None] | None = None,
) -> list[float]:
    """Return how likely an answer is under each of several biases, the logarithm from `LEAST` on.

    Args:
        prompts: The model.
        prompt: The prompt.
        rows: For each strength the nats of every token of the prompt.
        targets: Ways to say the answer, whose probabilities are added, as token ids.
        most_tokens: Most tokens in one forward pass.
        before_pass: Called before every forward pass; what it raises ends the work.

    """
    model, tokenizer = prompts.model, prompts.tokenizer
    inputs = encode(model, tokenizer, prompt.encoding, steering=prompt.steering)
    inputs.pop("guide_seed", None)
    batch = {name: one.expand(len(rows), *one.shape[1:]) for name, one in inputs.items()}
    batch["guide_bias"] = torch.tensor(rows, dtype=torch.float32).to(inputs["guide_bias"].device)
    length = prompt.tokens + max(map(len, targets))
    found = likelihoods_of_rows(
        model, batch, targets, batch_size=max(1, most_tokens // length), before_pass=before_pass
    )
    return [max(value, LEAST) for value in found]


def _six_digits(values: Tensor) -> list[list[float | None]]:
    return [
        [round(value, 6) if math.isfinite(value) else None for value in row]
        for row in values.tolist()
    ]


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
    return [_six_digits(group) for group in values.transpose(0, 1)]


def calibrated(
    prompts: Prompts,
    text: Any,
    roles: tuple[str, ...],
    target: str | float,
    form: str,
    most: float,
    on_pass: Callable[[int], None] | None = None,
) -> Calibration:
    """Return the Δ that gives the marks of a prompt the Influence of an emphasis in plain writing.

    Args:
        prompts: The model.
        text: The prompt, a text or a chat, tags included.
        roles: Roles whose tags act.
        target: See `calibrate`.
        form: Form of Influence.
        most: Largest Δ to try, nats.
        on_pass: Called after every forward pass; what it raises ends the work.

    """
    with torch.inference_mode():
        return calibrate(
            prompts.model, prompts.tokenizer, text, target=target, form=form, max_delta=most,
            trusted_roles=roles, on_pass=on_pass,
        )  # fmt: skip
