# SPDX-License-Identifier: MIT
"""Questions whose right answers are known: what steering is fitted to, and measured by."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guide_ext.integration.image_prompts import require_text
from guide_ext.integration.inputs import Prompt, encoding_of

_LOOKED_AT = 256  # numbers of each weight: another training changes them all


@dataclass(frozen=True)
class Example:
    """A question whose right answer is known.

    Attributes:
        prompt: A text, a chat or a `MarkedText`, with what answers the question marked, by a level
            and not by a Δ of its own.
        answers: Ways to say the right answer; models repeat the marked sentence more often than
            they say its one word, so give both.

    """

    prompt: Prompt
    answers: tuple[str, ...]

    def name(self) -> str:
        """Return a short name that only the same example has."""
        text = repr((self.prompt, tuple(self.answers)))
        return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=12).hexdigest()


def check_examples(
    what: str,
    tokenizer: Any,
    examples: Sequence[Example],
    *,
    need_answers: bool = True,
) -> None:
    """Check that examples can be steered by a Δ that is still to be found.

    Args:
        what: Who needs them, for the message about a processor in the place of a tokenizer.
        tokenizer: The model's fast tokenizer.
        examples: What to check.
        need_answers: Whether each must have an answer.

    Raises:
        ValueError: If the tokenizer is a processor, there is no example, or one has no answer, no
            mark or one that states its own Δ.

    """
    require_text(what, tokenizer)
    if not examples:
        raise ValueError("examples must be at least one, got none")
    for number, example in enumerate(examples):
        if need_answers and (isinstance(example.answers, str) or not example.answers):
            raise ValueError(
                f"examples must have a list of answers, got {example.answers!r} in example {number}"
            )
        marks = encoding_of(tokenizer, example.prompt)
        if not any(span.group is None for span in marks.token_spans):
            raise ValueError(
                f"examples must have a mark in their prompts, got none in example {number}; mark "
                "what answers the question with <!!-> … <-!!>"
            )
        if any(span.delta is not None for span in marks.spans):
            raise ValueError(
                "examples must have marks of the levels 1 to 3, whose Δ is to be found, got one "
                f"that states its own in example {number}"
            )


def fingerprint(model: Any, tokenizer: Any) -> str:
    """Return a short name of a model with these weights: a part of each, and the vocabulary."""
    digest = hashlib.blake2b(type(model).__name__.encode(), digest_size=8)
    for weight in model.parameters():
        digest.update(weight.detach().flatten()[:_LOOKED_AT].float().cpu().numpy().tobytes())
    digest.update(str(len(tokenizer)).encode())
    return digest.hexdigest()
