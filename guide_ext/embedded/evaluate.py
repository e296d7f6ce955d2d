# SPDX-License-Identifier: MIT
"""Does the embedded model follow a marked instruction? Tasks, cases, judges, rates.

Any function that completes tagged prompts at a given delta can be evaluated (:data:`Generate`). A
case puts its instruction in front of a text of up to ``max_tokens`` tokens, which training left out
on purpose (``curriculum.py``). An outcome is a *success* only if the whole answer is right: word
for word the one French sentence, or a JSON object with exactly the keys that were asked for and the
right values. A jumble of French words is no success.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from enum import Enum
from statistics import NormalDist
from typing import Protocol

from guide_ext.embedded import world
from guide_ext.embedded.world import Event, Field, Style

DELTAS = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 9.0)
"""The strengths of the study, in nats."""
DEVELOPMENT_SEED = 7
"""Seed of the documents that were used while the recipe was developed."""
FINAL_SEED = 20261
"""Seed of the documents of the reported evaluation; used once, at the end, for all training seeds.
"""
MAX_TOKENS = 384
NUM_BUCKETS = 6
_TOKENS_PER_SENTENCE = 8.3
_NEEDLE_PATTERN = re.compile(r"The secret word of (\S+) is (\S+)\.")

Generate = Callable[[Sequence[str], float], list[str]]
"""Completes tagged user messages, in order; its number is the bias of the marked text, in nats."""


class CountsTokens(Protocol):
    """The method of a tokenizer that measures documents; tokenizers and transformers have it."""

    def encode(self, text: str, *, add_special_tokens: bool) -> Sized:
        """Return the tokens of ``text``."""


class CaseKind(Enum):
    """What a prompt asks for."""

    FRENCH = "french"
    JSON = "json"
    NEEDLE = "needle"
    ENGLISH = "english"
    """A control: marking "Summarize in English" must not change the language."""


@dataclass(frozen=True)
class Case:
    """One document, one instruction, one right answer.

    Attributes:
        task: What is asked.
        before: Text before the marked part.
        marked: The part that is marked: the instruction, or the sentence to be found (needle).
        after: Text after the marked part.
        answer: The one right answer.
        context_tokens: Length of the document, in tokens.
        bucket: Index of its range of length, one of ``NUM_BUCKETS`` equal ranges.
        keys: The keys that a JSON answer must have; empty for other tasks.

    """

    task: CaseKind
    before: str
    marked: str
    after: str
    answer: str
    context_tokens: int
    bucket: int
    keys: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """The user message, with the marked part in tags of level 2."""
        return self.styled(Style.PLAIN)

    def styled(self, style: Style) -> str:
        """Write the tagged user message with the marked part in another style.

        Args:
            style: ``UPPER`` and ``IMPORTANT`` are the baselines; they are run at delta 0.

        Returns:
            The tagged text.

        """
        return f"{self.before}<!!->{style.apply(self.marked)}<-!!>{self.after}"


@dataclass(frozen=True)
class Judgement:
    """What is right about one answer.

    Attributes:
        success: Whether the whole answer is right. This is the score.
        well_formed: Whether it is a grammatical answer of some kind, perhaps to another question.
        followed: Whether the instruction was followed, whatever the content: the language, or the
            keys, are those that were asked for. This is no score by itself, as it ignores grammar.

    """

    success: bool
    well_formed: bool
    followed: bool


@dataclass(frozen=True)
class Outcome:
    """One answer to one case."""

    case: Case
    delta: float
    style: Style
    text: str
    judgement: Judgement


@dataclass(frozen=True)
class Rate:
    """A share of independent trials."""

    successes: int
    trials: int

    @property
    def value(self) -> float:
        """The share itself; NaN without trials."""
        return self.successes / self.trials if self.trials else math.nan

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return Wilson's score interval.

        Args:
            confidence: In (0, 1).

        Returns:
            Lower and upper end, in [0, 1]; (0, 1) without trials.

        Raises:
            ValueError: If ``confidence`` is not in (0, 1).

        Source:
            E. B. Wilson, JASA 22 (1927), 209-212; without continuity correction.

        Example:
            >>> low, high = Rate(90, 100).interval()
            >>> round(low, 3), round(high, 3)
            (0.826, 0.945)

        """
        if not 0 < confidence < 1:
            msg = f"confidence must be between 0 and 1, got {confidence}; 0.95 is usual"
            raise ValueError(msg)
        if not self.trials:
            return 0.0, 1.0
        z = NormalDist().inv_cdf(0.5 + confidence / 2)
        shrink = 1 + z * z / self.trials
        centre = (self.value + z * z / (2 * self.trials)) / shrink
        variance = self.value * (1 - self.value) / self.trials + (z / (2 * self.trials)) ** 2
        half = z * math.sqrt(variance) / shrink
        return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Summary:
    """The three rates of some outcomes; see :class:`Judgement`."""

    success: Rate
    well_formed: Rate
    followed: Rate


def make_cases(
    task: CaseKind,
    count: int,
    seed: int,
    max_tokens: int = MAX_TOKENS,
    *,
    tokenizer: CountsTokens,
) -> list[Case]:
    """Draw cases, equally many from each range of length.

    Args:
        task: What the prompts ask for.
        count: How many; a multiple of ``NUM_BUCKETS`` fills the buckets evenly.
        seed: Seed of the documents; that of the reported evaluation is :data:`FINAL_SEED`.
        max_tokens: Longest document, in tokens. The model was trained on documents of up to 24
            sentences, about 200 tokens, and has 1024 positions.
        tokenizer: Measures the documents.

    Returns:
        The cases, shortest bucket first.

    Raises:
        ValueError: If ``count`` is not positive, or ``max_tokens`` is too small for one sentence
            per bucket or leaves no room for an answer.

    """
    shortest, longest = 32 * NUM_BUCKETS, 896
    if count < 1:
        msg = f"count must be at least 1, got {count}"
        raise ValueError(msg)
    if not shortest <= max_tokens <= longest:
        msg = f"max_tokens must be from {shortest} to {longest}, got {max_tokens}"
        raise ValueError(msg)
    rng = random.Random(seed)
    width = max_tokens / NUM_BUCKETS
    cases = []
    for index in range(count):
        bucket = index * NUM_BUCKETS // count
        low, high = bucket * width, (bucket + 1) * width
        while True:
            case = _draw(rng, task, rng.uniform(low, high), bucket, tokenizer)
            if low < case.context_tokens <= high:
                break
        cases.append(case)
    return cases


def _draw(
    rng: random.Random, task: CaseKind, tokens: float, bucket: int, tokenizer: CountsTokens
) -> Case:
    event = world.random_event(rng)
    sentences = world.document(rng, event, max(1, int(tokens / _TOKENS_PER_SENTENCE)))
    if task is CaseKind.NEEDLE:
        name, secret = rng.choice(world.NAMES), rng.choice(world.FOODS)
        needle, question = world.needle_sentence(name, secret), world.needle_question(name)
        text = " ".join(world.hide(rng, sentences, needle))
        before, after = text.split(needle)
        keys: tuple[str, ...] = ()
        marked = answer = needle
        before, after = f"{question}\n{before}", f"{after}\n{question}"
    else:
        text = " ".join(sentences)
        fields = world.random_fields(rng) if task is CaseKind.JSON else ()
        marked, answer = _instruction(task, event, fields)
        keys = tuple(field.key for field in fields)
        before, after = "", f"\n{world.schema(fields)}\n{text}" if fields else f"\n{text}"
    length = len(tokenizer.encode(text, add_special_tokens=False))
    return Case(task, before, marked, after, answer, length, bucket, keys)


def _instruction(task: CaseKind, event: Event, fields: tuple[Field, ...]) -> tuple[str, str]:
    if task is CaseKind.FRENCH:
        return world.FRENCH_INSTRUCTION, event.french()
    if task is CaseKind.ENGLISH:
        return world.ENGLISH_INSTRUCTIONS[0], event.english()
    return world.JSON_INSTRUCTION, world.json_answer(fields, event)


def judge(case: Case, text: str) -> Judgement:
    """Judge one completion.

    Args:
        case: What was asked.
        text: The completion without special tokens; surrounding space is ignored.

    Returns:
        The judgement.

    """
    text = text.strip()
    well_formed = world.is_summary(text)
    if case.task is CaseKind.JSON:
        value = world.parse_object(text)
        followed = value is not None and set(value) == set(case.keys)
        success = followed and value == world.parse_object(case.answer)
        return Judgement(success, well_formed or value is not None, followed)
    if case.task is CaseKind.NEEDLE:
        match = _NEEDLE_PATTERN.fullmatch(text)
        found = match is not None and match[1] in world.NAMES and match[2] in world.FOODS
        return Judgement(text == case.answer, found, found)
    return Judgement(text == case.answer, well_formed, world.language(text) == case.task.value)


def run_cases(
    cases: Sequence[Case],
    generate: Generate,
    *,
    delta: float = 0.0,
    style: Style = Style.PLAIN,
    batch_size: int = 32,
) -> Iterator[Outcome]:
    """Answer cases in batches and judge the answers.

    Args:
        cases: The cases, sorted by length as ``make_cases`` returns them, so that batches need
            little padding.
        generate: Completes the prompts.
        delta: Bias on the marked part, in nats.
        style: How the marked part is written.
        batch_size: Prompts per call of ``generate``.

    Yields:
        One outcome per case, in order, as soon as its batch is done.

    Raises:
        ValueError: If ``generate`` does not return one completion per prompt.

    """
    for start in range(0, len(cases), batch_size):
        batch = cases[start : start + batch_size]
        texts = generate([case.styled(style) for case in batch], delta)
        if len(texts) != len(batch):
            msg = f"generate must return one completion per prompt ({len(batch)}), got {len(texts)}"
            raise ValueError(msg)
        for case, text in zip(batch, texts, strict=True):
            yield Outcome(case, delta, style, text, judge(case, text))


def summarize(outcomes: Iterable[Outcome]) -> Summary:
    """Return the three rates of outcomes, which should be of one setting."""
    judgements = [outcome.judgement for outcome in outcomes]
    trials = len(judgements)
    return Summary(
        success=Rate(sum(j.success for j in judgements), trials),
        well_formed=Rate(sum(j.well_formed for j in judgements), trials),
        followed=Rate(sum(j.followed for j in judgements), trials),
    )
