# SPDX-License-Identifier: MIT
"""Generate a batch of answers, each with a Δ, a temperature, a seed and an end of its own."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TopPLogitsWarper,
)

from guide_ext.integration.compiled import CompiledSteps
from guide_ext.integration.decoding import RowSampling, decoding_options
from guide_ext.integration.inputs import Inputs, encode
from guide_ext.integration.prefixes import ROPE_BY_LENGTH, rope_types
from guide_ext.integration.writing import Writer
from guide_ext.marking.tokens import Encoding
from guide_ext.steering.steering import Steering


@dataclass(frozen=True)
class Likely:
    """A token and how likely it was, by the model's own logits.

    Attributes:
        token: Its id.
        logprob: Natural logarithm of its probability.
        others: The likeliest tokens in its place, each with its logarithm.

    """

    token: int
    logprob: float
    others: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Ended:
    """The end of an answer.

    Attributes:
        reason: ``"stop"``, ``"length"``, or ``"gone"`` if nobody waits for it any more.
        tokens: Number of its tokens.

    """

    reason: str
    tokens: int


@dataclass(eq=False)
class Row:
    """One answer that is wanted.

    Attributes:
        encoding: The prompt that it answers.
        steering: What its marks mean.
        most: Most tokens.
        temperature: 0 for greedy decoding.
        top_p: Share of the probability that is sampled from.
        seed: Of its noise.
        stops: Texts that end it.
        num_logprobs: How many likely tokens are wanted beside each; None for no probabilities.
        push: Called by the thread that generates with each piece of text and its `Likely` tokens.
        end: Called at the end, with `Ended` or an error.
        min_share: Least share of the attention, instead of `steering`; None for `steering`.
        gone: Set if nobody waits for it any more.
        has_begun: Whether it has a token.

    """

    encoding: Encoding
    steering: Steering
    most: int
    temperature: float
    top_p: float
    seed: int
    stops: tuple[str, ...]
    num_logprobs: int | None
    push: Callable[[str, list[Likely]], None]
    end: Callable[[Ended | Exception], None]
    min_share: float | None = None
    gone: threading.Event = field(default_factory=threading.Event)
    has_begun: bool = False

    @property
    def tokens(self) -> int:
        """Number of tokens of the prompt."""
        return len(self.encoding.input_ids)


def generate(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    cache: Mapping[str, Any] | None = None,
    steps: CompiledSteps | None = None,
) -> Tensor:
    """Generate all answers; each row is told its pieces and its end.

    Args:
        model: An enabled decoder.
        tokenizer: Its tokenizer, which nobody else uses meanwhile.
        rows: What is wanted; all with a `min_share`, the same one, or all without.
        cache: The arguments of ``generate`` that carry a cache of what the prompts begin with.
        steps: Compiled steps, which take a single row that they can take; without `cache`.

    Returns:
        Token ids, ``[rows, tokens]``, the prompts included.

    """
    inputs = inputs_of(model, tokenizer, rows)
    longest = max(rows, key=lambda row: row.most)
    slots = longest.tokens if padding_is_free(model) else inputs["input_ids"].shape[1]
    how = decoding_options(model, slots, longest.most, 0.0)
    ends = how["generation_config"].eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    if steps is not None:
        how = steps.added_to(how)
    events = _Events(tokenizer, rows, ends)
    with torch.inference_mode():
        ids: Tensor = model.generate(
            **inputs,
            **how,
            **(cache or {}),
            logits_processor=LogitsProcessorList([events.choice] if events.choice.acts else []),
            stopping_criteria=StoppingCriteriaList([_Stop(events.taken)]),
        )
    events.end()
    return ids


def can_be_compiled(steps: CompiledSteps, row: Row) -> bool:
    """Return whether an answer that runs alone can take compiled steps.

    Single layers or heads, and shares, bring further tensors into the graph.
    """
    one = row.steering
    is_plain = (one.layers, one.heads, one.heads_by_layer, one.table) == (None,) * 4
    return is_plain and row.min_share is None and row.tokens + row.most <= steps.slots


def padding_is_free(model: Any) -> bool:
    """Return whether a batch may have more slots than the model has positions.

    Positions are counted without padding, row by row; but a row that has ended counts on while its
    batch does. So the model must compute what it knows of a position, and not look it up in a table
    that ends, and the positions of one row must change nothing in another.

    Example:
        >>> from guide_ext import integration as guide
        >>> padding_is_free(guide.load_embedded()[0])
        True

    """
    kinds = rope_types(model.config.get_text_config())
    names = inspect.signature(type(model).forward).parameters
    return bool(kinds) and not kinds & ROPE_BY_LENGTH and "position_ids" in names


def inputs_of(model: Any, tokenizer: Any, rows: Sequence[Row]) -> Inputs:
    """Return the prompts of rows as a left-padded batch."""
    encodings = [row.encoding for row in rows]
    share = rows[0].min_share
    if share is not None:
        inputs = encode(model, tokenizer, encodings, min_share=share)
    else:
        inputs = encode(model, tokenizer, encodings, steering=[row.steering for row in rows])
    inputs.pop("guide_seed", None)
    return inputs


class _Events:
    """What happens at each step: the choice of the tokens, their text, the end of rows.

    `generate()` calls `choice`, then `taken` with the tokens that it has appended. There is no
    streamer: it would come after the question whether rows have ended, a step too late.
    """

    def __init__(self, tokenizer: Any, rows: Sequence[Row], ends: Sequence[int]) -> None:
        self._rows = rows
        self._writers = [Writer(tokenizer, r.most, ends, r.stops, r.push) for r in rows]
        self._told = [False] * len(rows)
        self.choice = _Choice(rows)

    def taken(self, tokens: list[int]) -> list[bool]:
        """Take the tokens of a step, and return which rows are over."""
        details = self.choice.details(tokens)
        for row, (writer, token) in enumerate(zip(self._writers, tokens, strict=True)):
            self._rows[row].has_begun = True
            writer.take(token, details.get(row))
            self._tell(row)
        return [
            writer.reason is not None or row.gone.is_set()
            for row, writer in zip(self._rows, self._writers, strict=True)
        ]

    def _tell(self, row: int) -> None:
        """Tell a row its end, once."""
        reason = self._writers[row].reason
        if reason is not None and not self._told[row]:
            self._told[row] = True
            self._rows[row].end(Ended(reason, self._writers[row].tokens))

    def end(self) -> None:
        """Tell rows that nobody waits for that they are over."""
        for row, writer in zip(self._rows, self._writers, strict=True):
            if writer.reason is None:
                row.end(Ended("gone", writer.tokens))


class _Choice(LogitsProcessor):  # type: ignore[misc]
    """Chooses the next token of each row: the likeliest, after noise where a row is sampled."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self._samplers = [
            None if r.temperature == 0 else RowSampling([r.seed], r.temperature) for r in rows
        ]
        self._warpers = [None if r.top_p == 1 else TopPLogitsWarper(r.top_p) for r in rows]
        self._tells = any(row.num_logprobs is not None for row in rows)
        self._logits: Tensor | None = None

    @property
    def acts(self) -> bool:
        """Whether it has anything to do; `generate()` itself takes the likeliest token."""
        return self._tells or any(sampler is not None for sampler in self._samplers)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores whose largest are the chosen tokens, ``[rows, vocabulary]``."""
        if self._tells:
            self._logits = scores
        if all(sampler is None for sampler in self._samplers):
            return scores
        chosen = scores.float().clone()
        for row, (sampler, warper) in enumerate(zip(self._samplers, self._warpers, strict=True)):
            if sampler is None:
                continue
            own, ids = scores[row : row + 1], input_ids[row : row + 1]
            if warper is not None:
                kept = warper(ids, own.float() / self._rows[row].temperature)
                own = own.float().masked_fill(kept == -torch.inf, -torch.inf)
            chosen[row] = sampler(ids, own)[0]
        return chosen

    def details(self, tokens: Sequence[int]) -> dict[int, Likely]:
        """Return what is known of the tokens of the last step, by row, where a row asks for it."""
        found: dict[int, Likely] = {}
        if not self._tells:
            return found
        for row, one in enumerate(self._rows):
            if one.num_logprobs is None or self._logits is None:
                continue
            logprobs = self._logits[row].float().log_softmax(-1)
            best = logprobs.topk(min(one.num_logprobs, len(logprobs)))
            others = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            found[row] = Likely(tokens[row], float(logprobs[tokens[row]]), tuple(others))
        return found


class _Stop(StoppingCriteria):  # type: ignore[misc]
    def __init__(self, taken: Callable[[list[int]], list[bool]]) -> None:
        self._taken = taken
        self._none: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        """Take the tokens that were appended, and return which rows are over, ``[rows]``."""
        over = self._taken(input_ids[:, -1].tolist())
        if any(over):
            return torch.tensor(over, device=input_ids.device)
        if self._none is None:
            self._none = torch.zeros(len(over), dtype=torch.bool, device=input_ids.device)
        return self._none
