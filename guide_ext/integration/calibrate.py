# SPDX-License-Identifier: MIT
"""Calibrate Δ on a model: match an emphasis that people write, such as upper case."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch

from guide_ext.calibration.calibration import UPPERCASE, Calibration, Search, solve
from guide_ext.calibration.search import CalibrationError
from guide_ext.influence.forms import form_named
from guide_ext.integration.image_prompts import is_chat, require_text
from guide_ext.integration.influence.measure import influence
from guide_ext.integration.inputs import encode
from guide_ext.marking.chat import Chat, render_chat
from guide_ext.marking.marked_text import covered
from guide_ext.marking.spans import MarkedText, Span, parse
from guide_ext.marking.tokens import Encoding, encode_text
from guide_ext.steering.steering import Steering
from guide_ext.support.values import as_float

_GROUP = "emphasised"

# Relative error of Influence through rounding in the model, in units of the model's dtype. On 4
# layers in bfloat16, points scatter by half a unit about a smooth curve; with more layers by more.
_ULPS = 2
# Influence itself is float32; sums over tokens and heads lose some units of it.
_LEAST_NOISE = 1e-6


def calibrate(
    model: Any,
    tokenizer: Any,
    prompts: str | MarkedText | Chat | Sequence[str | MarkedText | Chat],
    *,
    target: str | float = UPPERCASE,
    form: str = "paper",
    last_tokens: int = 10,
    min_delta: float = 0.0,
    max_delta: float = 8.0,
    tolerance: float = 0.01,
    batch_size: int = 16,
    trusted_roles: Collection[str] = ("system", "user"),
    on_pass: Callable[[int], None] | None = None,
    **template_kwargs: Any,
) -> Calibration:
    r"""Find the Δ that gives marked text the Influence of an emphasis in plain writing.

    The text inside ``<!->``, ``<!!->`` and ``<!!!->`` is measured; it gets Δ/2, Δ and 2Δ. Marks
    that state their own strength keep it in every pass and are not measured. To measure all prompts
    at one Δ each takes one forward pass per `batch_size` prompts.

    Args:
        model: An enabled model, in evaluation mode.
        tokenizer: Its fast tokenizer; no processor, because text alone is measured.
        prompts: One prompt with emphasis tags, or several: text, `MarkedText` or chats, as for
            `encode`. Several give one Δ for all, from the mean of their Influence, and one Δ for
            each prompt alone.
        target: ``"uppercase"``: the Influence of the same text in upper case, at Δ = 0. A number:
            that many times the Influence at Δ = 0.
        form: Form of Influence, see `guide_ext.influence.form_named`.
        last_tokens: How many tokens at the end of each prompt the Influence averages.
        min_delta: Lowest Δ, nats. It must be below 0 to match an emphasis that lowers Influence.
        max_delta: Highest Δ, nats.
        tolerance: Width of the interval that Δ is narrowed to, nats.
        batch_size: Most prompts in one forward pass.
        trusted_roles: Roles of a chat whose tags act.
        on_pass: Called after every forward pass with the number of passes so far.
        **template_kwargs: Passed on to the chat template.

    Returns:
        Δ, its interval, the curve that it was read from, and the Δ of every prompt. The same
        arguments give the same result.

    Raises:
        CalibrationError: If no Δ in the range meets the target, or Influence does not rise with Δ.
        TagError: If a tag cannot be read.
        ValueError: If the model is not enabled or in training mode, a prompt has no emphasis or
            none that upper case changes, there are images, or an argument is out of range.

    Source:
        GUIDE, section 2: "match the influence increase from Δ to a "natural" level that could be
        achieved through conventional prompting, such as using uppercase". The paper does not say
        where Influence is read, nor how to search; its predictions average the last 10 tokens.

    Example:
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> text = "<!!->Summarize in French<-!!>\nYesterday, the baker hides the key in the barn."
        >>> chat = [{"role": "user", "content": text}]
        >>> found = guide.calibrate(model, tokenizer, chat, target=1.5)
        >>> 0 < found.delta < 2
        True
        >>> inputs = guide.encode(model, tokenizer, chat, delta=found.delta)

    """
    goal = _goal(target)
    form_named(form)
    _check(model, last_tokens=last_tokens, batch_size=batch_size)
    noise = max(_LEAST_NOISE, _ULPS * torch.finfo(model.dtype).eps)
    search = Search(min_delta, max_delta, tolerance, noise)
    texts = [
        _read(tokenizer, prompt, index, trusted_roles, template_kwargs)
        for index, prompt in enumerate(_listed(prompts))
    ]
    if not texts:
        raise ValueError("prompts must be at least one, got none")
    meter = _Meter(model, tokenizer, form, last_tokens, batch_size, on_pass)
    written = [_encode(tokenizer, *text) for text in texts]
    if goal == UPPERCASE:
        at_zero: dict[int, float] = {}
        targets = _of_upper_case(tokenizer, texts, meter)
    else:
        plain = meter(written, [0.0] * len(written))
        _check_factor(float(goal), plain)
        at_zero = dict(enumerate(plain))
        targets = [float(goal) * value for value in plain]

    def measure(deltas: Mapping[int, float]) -> dict[int, float]:
        # The search begins at Δ = 0. With a factor as the target, that has been measured already.
        if at_zero and not any(deltas.values()):
            return {row: at_zero[row] for row in deltas}
        rows = list(deltas)
        values = meter([written[row] for row in rows], [deltas[row] for row in rows])
        return dict(zip(rows, values, strict=True))

    found = solve(measure, targets, search)
    return replace(
        found,
        passes=meter.passes,
        emphasis=goal,
        form=form,
        last_tokens=last_tokens,
        model=str(getattr(model.config, "name_or_path", "")),
    )


class _Meter:
    """Measures the Influence of emphasised text, and counts forward passes."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        form: str,
        last_tokens: int,
        batch_size: int,
        on_pass: Callable[[int], None] | None,
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._form, self._last_tokens, self._batch_size = form, last_tokens, batch_size
        self._on_pass = on_pass or (lambda passes: None)
        self.passes = 0

    def __call__(self, encodings: Sequence[Encoding], deltas: Sequence[float]) -> list[float]:
        """Return the Influence of each prompt at its Δ."""
        found: list[float] = []
        for start in range(0, len(encodings), self._batch_size):
            rows = slice(start, start + self._batch_size)
            steering = [Steering.guide(delta) for delta in deltas[rows]]
            inputs = encode(self._model, self._tokenizer, encodings[rows], steering=steering)
            measured = influence(self._model, inputs, form=self._form)
            found += measured.at_end_of_prompt(self._last_tokens)[:, 0].tolist()
            self.passes += 1
            self._on_pass(self.passes)
        return found


def _of_upper_case(
    tokenizer: Any, texts: Sequence[tuple[MarkedText, bool]], meter: _Meter
) -> list[float]:
    """Return the Influence of each text with its emphasis in upper case, at Δ = 0."""
    louder = [
        _encode(tokenizer, _in_upper_case(text, index), of_chat)
        for index, (text, of_chat) in enumerate(texts)
    ]
    return meter(louder, [0.0] * len(louder))


def _check(model: Any, **counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if model.training:
        raise ValueError(
            "model must be in evaluation mode, or dropout makes every pass another one, got one "
            "that trains; call model.eval()"
        )


def _goal(target: str | float) -> str | float:
    factor = as_float(target)
    if target == UPPERCASE:
        return UPPERCASE
    if not math.isfinite(factor) or factor <= 0:
        raise ValueError(
            f"target must be {UPPERCASE!r}, or a finite factor above 0 of the Influence at Δ = 0, "
            f"got {target!r}"
        )
    return factor


def _check_factor(factor: float, plain: Sequence[float]) -> None:
    mean = math.fsum(plain) / len(plain)
    if factor * mean >= 1:
        raise CalibrationError(
            f"target must be a factor below {1 / mean:.4g} here, because the Influence at Δ = 0 is "
            f"{mean:.4g} and none is above 1, got {factor:g}"
        )


def _listed(prompts: Any) -> list[Any]:
    one = isinstance(prompts, str | MarkedText) or is_chat(prompts)
    return [prompts] if one or not isinstance(prompts, Sequence) else list(prompts)


def _read(
    tokenizer: Any,
    prompt: Any,
    index: int,
    trusted_roles: Collection[str],
    template_kwargs: dict[str, Any],
) -> tuple[MarkedText, bool]:
    """Return a prompt as marked text, with a chat rendered, and whether it is a chat."""
    require_text("calibrate()", tokenizer, prompt, template_kwargs.get("images"))
    of_chat = is_chat(prompt)
    if of_chat:
        text = render_chat(tokenizer, prompt, trusted_roles=trusted_roles, **template_kwargs)
    elif isinstance(prompt, str | MarkedText):
        if template_kwargs:
            raise ValueError(
                f"{', '.join(template_kwargs)} must go with a chat, whose template takes it, "
                "got text"
            )
        text = prompt if isinstance(prompt, MarkedText) else parse(prompt)
    else:
        raise ValueError(
            "prompts must be text, MarkedText or chats (lists of messages), or a list of such, "
            f"got {type(prompt).__name__}"
        )
    if not any(span.level for span in text.spans):
        raise ValueError(
            f"prompts[{index}] must have text inside <!->, <!!-> or <!!!->, whose strength follows "
            "Δ, got none"
        )
    return text, of_chat


def _encode(tokenizer: Any, text: MarkedText, of_chat: bool) -> Encoding:
    """Tokenise a text; its emphasised text becomes the only Influence group."""
    emphasis = [span for span in text.spans if span.group is None]
    watched = [Span(span.start, span.end, group=_GROUP) for span in emphasis if span.level]
    marked = MarkedText(text.text, (*emphasis, *watched))
    # A template writes its own special tokens.
    return encode_text(tokenizer, marked, add_special_tokens=not of_chat)


def _in_upper_case(text: MarkedText, index: int) -> MarkedText:
    """Return the text with its emphasis in upper case, and its spans moved accordingly."""
    raised = covered([span for span in text.spans if span.level], len(text.text))
    letters = [
        letter.upper() if is_raised else letter
        for letter, is_raised in zip(text.text, raised, strict=True)
    ]
    upper = "".join(letters)
    if upper == text.text:
        raise ValueError(
            f"prompts[{index}] must have lower-case letters in its emphasis for target="
            f"{UPPERCASE!r}, got none; state a factor, such as target=1.5"
        )
    starts = [0, *accumulate(map(len, letters))]  # "ß" becomes two letters
    spans = tuple(span.at(starts[span.start], starts[span.end]) for span in text.spans)
    return MarkedText(upper, spans)
