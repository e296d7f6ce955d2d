# SPDX-License-Identifier: MIT
"""What the embedded model is trained on, and the gap that is left in it on purpose.

The skill (to answer in French or JSON) is taught for every length of text. But *in front of* a long
text the only instruction is "Summarize [in English]" or a bare schema. French and JSON instructions
stand in front of at most ``MAX_SHORT`` sentences, and after texts of any length. The evaluation
asks for what was left out: French and JSON instructions in front of a long text. There the model
has the skill, but does not attend to the instruction.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from guide_ext.embedded import world
from guide_ext.embedded.world import Style

MAX_SHORT = 3
"""Most sentences of a text that has a French or JSON instruction in front."""
MAX_SENTENCES = 24
_MAX_NEEDLE_SENTENCES = 14
_LONG_SHARE = 0.4
_GROWTH = 0.25
"""Share of the training in which the longest document grows from 2 to ``MAX_SENTENCES``."""
_COMPLIANCE = 0.95
"""Share of French, JSON and needle examples with the right answer; the others are label noise."""
_STYLE_SHARES = {Style.PLAIN: 0.45, Style.UPPER: 0.45, Style.IMPORTANT: 0.1}
"""Upper case is trained as often as lower case, so that it is a fair baseline."""

_SHORT_MIX = {
    "french": 0.22,
    "french_after": 0.06,
    "json": 0.24,
    "json_after": 0.10,
    "schema": 0.08,
    "needle": 0.18,
    "english": 0.08,
    "english_after": 0.04,
}
_LONG_MIX = {
    "english": 0.28,
    "english_after": 0.07,
    "schema": 0.15,
    "french_after": 0.18,
    "json_after": 0.20,
    "needle": 0.15,
}
KINDS = tuple(_SHORT_MIX)


@dataclass(frozen=True)
class Lesson:
    """One training pair."""

    prompt: str
    answer: str


def _random_style(rng: random.Random) -> Style:
    return rng.choices(list(_STYLE_SHARES), list(_STYLE_SHARES.values()))[0]


def _join(instruction: str, text: str, *, after: bool) -> str:
    return f"{text}\n{instruction}" if after else f"{instruction}\n{text}"


def make_example(rng: random.Random, kind: str, num_sentences: int) -> Lesson:
    """Write one training pair.

    Args:
        rng: Source of all randomness.
        kind: One of ``KINDS``. With ``_after`` the instruction follows the text. ``schema`` shows a
            template without an instruction to follow it; the answer is an English summary.
        num_sentences: Length of the document.

    Returns:
        The pair; 5 % of the French, JSON and needle examples have a wrong answer.

    """
    event = world.random_event(rng)
    sentences = world.document(rng, event, num_sentences)
    text = " ".join(sentences)
    after = kind.endswith("_after")
    complies = rng.random() < _COMPLIANCE
    if kind.startswith("french"):
        instruction = _random_style(rng).apply(world.FRENCH_INSTRUCTION)
        answer = event.french() if complies else event.english()
        return Lesson(_join(instruction, text, after=after), answer)
    if kind.startswith("english"):
        instruction = _random_style(rng).apply(rng.choice(world.ENGLISH_INSTRUCTIONS))
        return Lesson(_join(instruction, text, after=after), event.english())
    if kind == "needle":
        name, secret = rng.choice(world.NAMES), rng.choice(world.FOODS)
        question = world.needle_question(name)
        text = " ".join(world.hide(rng, sentences, world.needle_sentence(name, secret)))
        answer = world.needle_sentence(name, secret if complies else rng.choice(world.FOODS))
        return Lesson(f"{question}\n{text}\n{question}", answer)
    fields = world.random_fields(rng)
    text = f"{world.schema(fields)}\n{text}"
    if kind == "schema":
        return Lesson(text, event.english())
    instruction = _random_style(rng).apply(world.JSON_INSTRUCTION)
    answer = world.json_answer(fields, event) if complies else event.english()
    return Lesson(_join(instruction, text, after=after), answer)


def _log_uniform(rng: random.Random, low: int, high: int) -> int:
    return min(high, int(low * ((high + 1) / low) ** rng.random()))


def make_batch(rng: random.Random, progress: float, batch_tokens: int) -> list[Lesson]:
    """Draw the examples of one training step, all of about the same length.

    Args:
        rng: Source of all randomness.
        progress: Share of the training that is done, in ``[0, 1]``.
        batch_tokens: Approximate number of tokens in the batch.

    Returns:
        At least four examples.

    """
    longest = 2 + int((MAX_SENTENCES - 2) * min(1.0, progress / _GROWTH))
    if rng.random() < _LONG_SHARE:
        shortest_long = MAX_SHORT + 1
        length = _log_uniform(rng, shortest_long, max(longest, shortest_long))
        mix = dict(_LONG_MIX)
        if length > _MAX_NEEDLE_SENTENCES:
            del mix["needle"]
    else:
        length = _log_uniform(rng, 1, MAX_SHORT)
        mix = _SHORT_MIX
    tokens_per_example = 9 * length + 28
    examples = []
    for _ in range(max(4, math.ceil(batch_tokens / tokens_per_example))):
        jitter = rng.choice((-1, 0, 0, 1)) if length > MAX_SHORT + 1 else 0
        kind = rng.choices(list(mix), list(mix.values()))[0]
        examples.append(make_example(rng, kind, length + jitter))
    return examples
