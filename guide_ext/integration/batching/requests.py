# SPDX-License-Identifier: MIT
"""The steering of requests to continuous batching: what users pass, and what travels with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from guide_ext.integration.call import arguments
from guide_ext.integration.call.packed import RequestSteering
from guide_ext.integration.model.state import refuse_unknown_part, strength_size

# Numbers for the tokens of one prompt.
Row: TypeAlias = Tensor | Sequence[float]

# The steering arguments of one request, and of a list of them.
REQUEST_ARGUMENTS = ("guide_bias", "guide_strength", "guide_share")

# Under this name the steering of a request is among what transformers keeps for its logits
# processors, which is copied and sent with the request.
STEERING_KEY = "_guide_steering"


class SteeredPrompt(list[int]):
    """The tokens of a prompt together with its steering.

    transformers hands the prompts of a list on one by one, as they are, and no other argument.

    Attributes:
        steering: The steering.
        is_taken: Whether a manager has taken both.

    """

    def __init__(self, tokens: Sequence[int], steering: RequestSteering) -> None:
        super().__init__(tokens)
        self.steering = steering
        self.is_taken = False


def request_steering(
    model: Any,
    tokens: int,
    bias: Row | None,
    strength: Tensor | None = None,
    share: Row | None = None,
) -> RequestSteering:
    """Check the steering arguments of one request.

    Args:
        model: An enabled model.
        tokens: Length of its prompt.
        bias: Nats for each token of the prompt, ``[tokens]`` or ``[1, tokens]``; None for none.
        strength: Multiplier of the bias, ``[layers, heads]`` or ``[1, layers, heads]``.
        share: Minimum share of the attention on each marked token, as `bias`.

    Raises:
        ValueError: If one has another form or length, or numbers that are out of range.

    """
    own = None if share is None else arguments.check_share(_row(share, "guide_share"), None)
    given = None if bias is None else _row(bias, "guide_bias")
    given = arguments.bias_beside(own, given)
    arguments.check_companions(given, strength, [])
    if given is None:
        return RequestSteering()
    row = arguments.check_bias(given, 1)
    if row.shape[1] != tokens:
        raise ValueError(
            f"guide_bias must have one number for each of the {tokens} token(s) of its prompt, "
            f"got {row.shape[1]}; put 0 where nothing is marked"
        )
    if own is not None:
        arguments.check_share(own, row)
        refuse_unknown_part(model, "guide_share")
        arguments.check_share_values(own)
    table = None
    if strength is not None:
        if isinstance(strength, Tensor) and strength.dim() == 2:
            strength = strength[None]
        table = arguments.check_strength(strength, 1, *strength_size(model)).cpu()
    arguments.check_values(row, table)
    return RequestSteering(row.cpu(), table, None if own is None else own.cpu())


def steered_prompts(
    model: Any, inputs: Sequence[Sequence[int] | Tensor], given: Mapping[str, Any]
) -> list[SteeredPrompt]:
    """Check the steering arguments of a list of requests.

    Args:
        model: An enabled model.
        inputs: The tokens of the prompts.
        given: For each of `REQUEST_ARGUMENTS`, None or one value for each prompt, which may be
            None.

    Raises:
        ValueError: If there are more or fewer values than prompts, or one does not fit; the message
            says which.

    """
    for name, values in given.items():
        if values is not None and (not hasattr(values, "__len__") or len(values) != len(inputs)):
            found = f"{len(values)}" if hasattr(values, "__len__") else f"a {type(values).__name__}"
            raise ValueError(
                f"{name} must be a list with one entry, or None, for each of the {len(inputs)} "
                f"prompt(s), got {found}"
            )
    prompts = []
    for index, tokens in enumerate(inputs):
        ids = tokens.tolist() if isinstance(tokens, Tensor) else list(tokens)
        own = [None if given.get(n) is None else given[n][index] for n in REQUEST_ARGUMENTS]
        try:
            steering = request_steering(model, len(ids), *own)
        except ValueError as error:
            raise ValueError(f"prompt {index}: {error}") from error
        prompts.append(SteeredPrompt(ids, steering))
    return prompts


def as_requests(inputs: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """Turn a padded batch into arguments of `generate_batch()`, which takes prompts one by one.

    Args:
        inputs: What `guide_ext.integration.encode` returns.

    Returns:
        ``inputs``, the tokens of each prompt without padding; and, where `inputs` has them,
        ``guide_bias`` and ``guide_share``, float32 ``[tokens]`` for each prompt, and
        ``guide_strength``, float32 ``[layers, heads]`` for each.

    Raises:
        ValueError: If there is something else in `inputs`: groups whose Influence is wanted, or the
            texts of a decoder behind an encoder.

    Example:
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> texts = ["The <!!->cat<-!!> sleeps.", "The cat"]
        >>> requests = guide.as_requests(guide.encode(model, tokenizer, texts, delta=2.0))
        >>> [len(prompt) for prompt in requests["inputs"]]
        [5, 3]
        >>> requests["guide_bias"]
        [tensor([0., 0., 2., 0., 0.]), tensor([0., 0., 0.])]

    """
    known = {"input_ids", "attention_mask", *REQUEST_ARGUMENTS}
    unknown = [name for name, value in inputs.items() if name not in known and value is not None]
    if unknown or "input_ids" not in inputs:
        raise ValueError(
            f"inputs must hold input_ids, attention_mask, {', '.join(REQUEST_ARGUMENTS)} and "
            f"nothing else, got {', '.join(inputs)}; continuous batching measures no Influence and "
            "runs no encoder"
        )
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    kept = torch.ones_like(ids).bool() if mask is None else mask.bool()
    requests: dict[str, list[Any]] = {
        "inputs": [row[own].tolist() for row, own in zip(ids, kept, strict=True)]
    }
    for name in REQUEST_ARGUMENTS:
        values = inputs.get(name)
        if values is None:
            continue
        if name == "guide_strength":
            requests[name] = list(values)
        else:
            requests[name] = [row[own] for row, own in zip(values, kept, strict=True)]
    return requests


def _row(values: Row, name: str) -> Tensor:
    """Return numbers as a tensor with a first dimension of 1, if they are numbers of one prompt."""
    if isinstance(values, Tensor):
        return values[None] if values.dim() == 1 else values
    try:
        row = torch.tensor(list(values), dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be the numbers of one prompt, a sequence or a tensor [tokens], got "
            f"{values!r}"
        ) from error
    return row[None] if row.dim() == 1 else row
