# SPDX-License-Identifier: MIT
"""The plain and the guided answer in one batch, each token with its Influence as it comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor
from transformers.generation.streamers import BaseStreamer

from guide_ext.influence.forms import form_named
from guide_ext.influence.record import GUIDED, PLAIN
from guide_ext.integration.compare import (
    Run,
    as_encoding,
    described_tokens,
    record_of,
    unsteered,
    watched,
)
from guide_ext.integration.decoding import PromptSeeds, decoding_options
from guide_ext.integration.image_prompts import require_text
from guide_ext.integration.influence.measure import generate_with_influence
from guide_ext.integration.inputs import encode
from guide_ext.integration.model.state import refuse_two_texts, table_size
from guide_ext.integration.token_texts import TokenTexts
from guide_ext.marking.chat import Chat
from guide_ext.marking.spans import MarkedText
from guide_ext.marking.tokens import Encoding


@dataclass(frozen=True)
class Step:
    """A token that was written, and the Influence on those that were read for it.

    Attributes:
        run: ``"plain"`` or ``"guided"``.
        token: The new token: its ``id``, its name (``token``), what it adds to the text (``text``),
            and whether it is ``special``. See `TokenTexts`.
        logprob: Natural logarithm of its probability, by the model's own logits.
        values: Influence of the tokens that were read since the step before, ``[layers + 1, groups,
            tokens]``, float32: at first those of the prompt, then the token before this one.
        reason: Why the answer ends with it: ``"stop"`` or ``"length"``; None while it goes on.

    """

    run: str
    token: dict[str, Any]
    logprob: float
    values: Tensor
    reason: str | None = None


def measure_side_by_side(
    model: Any,
    tokenizer: Any,
    prompt: str | MarkedText | Chat | Encoding,
    *,
    delta: float = 2.0,
    form: str = "paper",
    max_new_tokens: int = 60,
    temperature: float = 0.0,
    seed: int = 0,
    model_name: str | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> dict[str, Any]:
    """Measure as `measure_prompt` does, both runs at the same time, and tell every token.

    Both answers are rows of one batch, which is sooner done than one after the other. Values are
    equal to those of `measure_prompt` up to rounding.

    Args:
        model: An enabled model.
        tokenizer: Its fast tokenizer.
        prompt: See `measure_prompt`, as all that follow.
        delta: See `measure_prompt`.
        form: See `measure_prompt`.
        max_new_tokens: See `measure_prompt`.
        temperature: See `measure_prompt`.
        seed: See `measure_prompt`.
        model_name: See `measure_prompt`.
        on_step: Called with every token of both answers.

    Returns:
        The record, see `guide_ext.influence.record`.

    Raises:
        TagError: As `measure_prompt` does.
        ValueError: As `measure_prompt` does; or if texts end by ``stop_strings``.
        UnsupportedModelError: As `measure_prompt` does.

    Example:
        >>> from guide_ext.integration import load_embedded
        >>> model, tokenizer = load_embedded()
        >>> from guide_ext.integration import as_prompt
        >>> prompt = as_prompt(tokenizer, "<!!->Summarize in French<-!!>: The cat sleeps.")
        >>> told = []
        >>> record = measure_side_by_side(
        ...     model, tokenizer, prompt, max_new_tokens=4, on_step=told.append)
        >>> [step.run for step in told[:3]], told[-1].reason
        (['plain', 'guided', 'plain'], 'length')
        >>> tokens = [[step.token for step in told if step.run == run["name"]]
        ...           for run in record["runs"]]
        >>> tokens == [run["tokens"] for run in record["runs"]]
        True

    """
    form_named(form)
    table_size(model)  # raises if the model is not enabled
    refuse_two_texts(model, "a record, which has one row of tokens,")
    require_text("measure_side_by_side()", tokenizer, prompt)
    encoding = watched(as_encoding(tokenizer, prompt))
    inputs = encode(model, tokenizer, encoding, delta=delta)
    nats = encoding.nats(delta)
    names = [PLAIN, GUIDED] if any(nats) else [PLAIN]
    batch = {name: torch.cat([one] * len(names)) for name, one in inputs.items()}
    if len(names) == 1:
        batch = unsteered(batch)
    else:
        batch["guide_bias"][0] = 0.0
    seeds = PromptSeeds(seed).of(inputs) * len(names)
    logits = _Logits()
    how = decoding_options(
        model, len(nats), max_new_tokens, temperature, seeds=seeds, tokenizer=tokenizer,
        contrast=logits,
    )  # fmt: skip
    config = how["generation_config"]
    if config.stop_strings:
        raise ValueError(
            "generation_config must end texts by tokens to measure two answers side by side, got "
            f"stop_strings {config.stop_strings!r}; use measure_prompt()"
        )
    steps = _Steps(tokenizer, names, logits, _ends(config), config.max_new_tokens, on_step)
    sequences, measured = generate_with_influence(
        model, batch, form=form, groups=inputs.groups, on_values=steps.values, streamer=steps, **how
    )
    runs = []
    for row, name in enumerate(names):
        count = len(nats) + len(steps.written[row])
        own = replace(
            measured,
            values=measured.values[row : row + 1, ..., : count - 1],
            mask=measured.mask[row : row + 1, : count - 1],
            token_ids=None,
        )
        strength = 0.0 if name == PLAIN else delta
        runs.append(Run(name, strength, sequences[row, :count], own).described(tokenizer))
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    return record_of(
        model, tokenizer, encoding, runs, inputs.groups, delta, form, settings, model_name
    )


def _ends(config: Any) -> tuple[int, ...]:
    found = config.eos_token_id
    return () if found is None else (found,) if isinstance(found, int) else tuple(found)


class _Logits(LogitsProcessor):  # type: ignore[misc]
    """Keeps the model's own logits of the running step."""

    def __init__(self) -> None:
        self._logits = torch.empty(0)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the logits as they are, ``[rows, vocabulary]``."""
        self._logits = scores
        return scores

    def logprob(self, row: int, token: int) -> float:
        """Return how likely a token was in the last step."""
        return float(self._logits[row].float().log_softmax(-1)[token])


@dataclass
class _Steps(BaseStreamer):  # type: ignore[misc]
    """Tells every token of every row, until the row has ended.

    `generate()` hands on the prompts first and then the tokens of each step; before each of those,
    `values` gets what the step has measured.
    """

    tokenizer: Any
    names: Sequence[str]
    logits: _Logits
    ends: tuple[int, ...]
    most: int
    on_step: Callable[[Step], None] | None
    written: list[list[int]] = field(default_factory=list)
    is_prompt: bool = True

    def __post_init__(self) -> None:
        """Begin."""
        self.written = [[] for _ in self.names]
        self._texts: list[TokenTexts] = []
        self._over = [False] * len(self.names)
        self._values = torch.empty(0)

    def values(self, values: Tensor) -> None:
        """Take the Influence that a step has measured."""
        self._values = values

    def put(self, value: Tensor) -> None:
        """Take the prompts, then the tokens of a step."""
        if self.is_prompt:
            self.is_prompt = False
            self._texts = [TokenTexts(self.tokenizer, row) for row in value.tolist()]
            return
        for row, token in enumerate(value.flatten().tolist()):
            if not self._over[row]:
                self._take(row, token)

    def _take(self, row: int, token: int) -> None:
        self.written[row].append(token)
        reason = "stop" if token in self.ends else None
        if reason is None and len(self.written[row]) == self.most:
            reason = "length"
        self._over[row] = reason is not None
        if self.on_step is not None:
            text = self._texts[row].take(token, is_last=reason is not None)
            (told,) = described_tokens(self.tokenizer, [token], [text])
            chance = self.logits.logprob(row, token)
            self.on_step(Step(self.names[row], told, chance, self._values[row], reason))

    def end(self) -> None:
        """Nothing is left to do."""
