# SPDX-License-Identifier: MIT
"""Find the heads in which steering helps, by what each does to the answers of some examples."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guide_ext.integration.examples import Example, check_examples, fingerprint
from guide_ext.integration.influence.measure import influence
from guide_ext.integration.inputs import Prompt, encode
from guide_ext.integration.likelihood import log_likelihoods, require_possible
from guide_ext.integration.model.state import refuse_two_texts, strength_size
from guide_ext.steering.steering import Steering, grouped_by_layer
from guide_ext.support.files import json_text, write_text

_DIGITS = 4
_SHARE = 0.09  # of all heads: the 25 of 270 that found every hidden sentence in docs/real_models.md


@dataclass(frozen=True)
class Profile:
    """What each head does to the answers.

    Attributes:
        scores: For each layer and head; see `by`.
        by: ``"gain"``: by how many nats the log-likelihood of the right answer rises if this head
            alone is steered; ``"attention"``: the share of its attention that the last token of
            the prompt gives to marked text, unsteered. Means over the examples.
        delta: Δ of the marks, nats.
        plain: Mean log-likelihood of the right answer without steering, nats; None by attention.
        gain_everywhere: Its rise with all heads steered together, nats; None by attention.
        examples: How many examples were asked.

    """

    scores: tuple[tuple[float, ...], ...]
    by: str
    delta: float
    plain: float | None
    gain_everywhere: float | None
    examples: int

    def best(self, keep: int | None = None) -> tuple[tuple[int, int], ...]:
        """Return the heads with the highest scores, best first.

        Args:
            keep: How many; None for 9 % of all.

        Returns:
            Pairs (layer, head), counted from 0.

        Raises:
            ValueError: If `keep` is not a whole number from 1 to the number of heads.

        """
        places = [
            (layer, head) for layer, row in enumerate(self.scores) for head in range(len(row))
        ]
        ranked = sorted(places, key=lambda place: (-self.scores[place[0]][place[1]], place))
        return tuple(ranked[: heads_to_keep(keep, len(places))])

    def steering(self, delta: float | None = None, keep: int | None = None) -> Steering:
        """Return a steering that acts in the best heads alone.

        Args:
            delta: Δ of a level-2 mark, nats; None for that of the profile.
            keep: As for `best`.

        """
        heads = grouped_by_layer(self.best(keep))
        return Steering.guide(self.delta if delta is None else delta, heads=heads)

    def pasta(self, alpha: float = 0.01, keep: int | None = None) -> Steering:
        """Return PASTA in the best heads: there, the rest of the prompt is scaled down by alpha.

        Args:
            alpha: As for `Steering.pasta`.
            keep: As for `best`.

        """
        return Steering.pasta(alpha, grouped_by_layer(self.best(keep)))


def heads_to_keep(keep: int | None, heads: int) -> int:
    """Return how many of a model's heads to keep; None stands for 9 %.

    Raises:
        ValueError: If `keep` is not a whole number from 1 to the number of heads.

    Example:
        >>> heads_to_keep(None, 270), heads_to_keep(5, 270)
        (25, 5)

    """
    keep = math.ceil(_SHARE * heads) if keep is None else keep
    if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
        raise ValueError(f"keep must be a whole number from 1, got {keep!r}")
    if keep > heads:
        raise ValueError(f"keep must be at most the model's {heads} heads, got {keep}")
    return keep


def profile_heads(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    *,
    by: str = "gain",
    delta: float = 2.0,
    batch_size: int = 32,
    saved: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Profile:
    """Find out what each head does to the answers of some examples.

    By gain, each head is steered alone, which takes as many forward passes over the end of each
    prompt as the model has heads; what stands before the mark is computed once. By attention, one
    pass for each example does. Use the heads on other examples than these: on these, they would be
    measured by what chose them.

    Args:
        model: An enabled model.
        tokenizer: Its fast tokenizer.
        examples: The questions; a dozen is a start.
        by: ``"gain"`` or ``"attention"``, see `Profile`.
        delta: Δ of level-2 marks, nats; not 0.
        batch_size: Heads that are measured in one pass.
        saved: A file that gets what each example showed as soon as it is known. With it, the same
            call goes on after an interruption.
        on_progress: Called with the number of passes that are done and of all, in heads.

    Returns:
        The profile. The same arguments give the same one, up to rounding.

    Raises:
        ValueError: If there is no example, one has no answer, no mark or one that states its own
            Δ, an argument is out of range, the model cannot be steered by head or is an
            encoder–decoder, or the file is of another call.
        OSError: If the file cannot be read or written.

    Source:
        PASTA (Zhang et al. 2023, "multi-task model profiling") steers one head at a time and ranks
        by accuracy; likelihoods show small gains on few examples.

    Example:
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> prompt = [{"role": "user", "content": "<!!->Summarize in French<-!!>: The cat sleeps."}]
        >>> profile = guide.profile_heads(model, tokenizer, [Example(prompt, ("Le chat dort.",))])
        >>> len(profile.best()), len(profile.best(keep=5))
        (2, 5)
        >>> inputs = guide.encode(model, tokenizer, [prompt], steering=profile.steering())
        >>> int(inputs["guide_strength"].sum())
        2

    """
    layers, heads = strength_size(model)
    refuse_two_texts(model, "profile_heads()")
    if by not in ("gain", "attention"):
        raise ValueError(f"by must be 'gain' or 'attention', got {by!r}")
    if not math.isfinite(delta) or delta == 0:
        raise ValueError(f"delta must be a finite number of nats and not 0, got {delta!r}")
    check_examples("profile_heads()", tokenizer, examples, need_answers=by == "gain")
    alone = [
        Steering.guide(delta, heads={layer: [head]})
        for layer in range(layers)
        for head in range(heads)
    ]
    steerings = [Steering.guide(0.0), Steering.guide(delta), *alone] if by == "gain" else alone
    rows = _Rows(saved, [fingerprint(model, tokenizer), layers, heads, by, delta])
    done, total = 0, len(examples) * len(steerings)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if on_progress is not None:
            on_progress(done, total)

    advance(0)
    found = []
    for example in examples:
        row = rows.of(example)
        if row is not None:
            advance(len(steerings))
        elif by == "gain":
            row = log_likelihoods(
                model, tokenizer, example.prompt, example.answers, steerings,
                batch_size=batch_size, on_rows=advance,
            )  # fmt: skip
            require_possible(f"answers {list(example.answers)!r}", row)
        else:
            row = _attention(model, tokenizer, example.prompt)
            advance(len(steerings))
        rows.save(example, row)
        found.append(row)
    if by == "gain":
        plain, everywhere, *scores = _gains(found)
        return _profile(scores, heads, by, delta, plain, everywhere, len(examples))
    scores = [
        round(math.fsum(column) / len(column), _DIGITS) for column in zip(*found, strict=True)
    ]
    return _profile(scores, heads, by, delta, None, None, len(examples))


def _profile(
    scores: Sequence[float],
    heads: int,
    by: str,
    delta: float,
    plain: float | None,
    everywhere: float | None,
    examples: int,
) -> Profile:
    table = tuple(tuple(scores[start : start + heads]) for start in range(0, len(scores), heads))
    return Profile(table, by, float(delta), plain, everywhere, examples)


def _gains(rows: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean of the first column, and of each other's difference from it."""
    columns = [(0.0, *(value - row[0] for value in row[1:])) for row in rows]
    means = [math.fsum(values) / len(values) for values in zip(*columns, strict=True)]
    means[0] = math.fsum(row[0] for row in rows) / len(rows)
    return [round(value, _DIGITS) for value in means]


def _attention(model: Any, tokenizer: Any, prompt: Prompt) -> list[float]:
    """Return what share of each head's attention the last token gives to marked text."""
    inputs = encode(model, tokenizer, [prompt])
    marked = inputs.pop("guide_bias") != 0
    inputs.pop("guide_strength", None)
    measured = influence(
        model, {**inputs, "guide_seed": marked[:, None].float()}, form="raw", by_head=True
    ).by_head
    assert measured is not None
    shares: list[float] = measured[0, :, 0, :, -1].flatten().double().tolist()
    if not all(math.isfinite(share) for share in shares):
        raise ValueError("attention must be numbers, got NaN or inf; try dtype float32")
    return shares


class _Rows:
    """What examples showed, in a file that is written anew, whole, after each of them."""

    def __init__(self, path: str | Path | None, key: list[Any]) -> None:
        self._path = None if path is None else Path(path)
        self._key = json.loads(json.dumps(key))
        self._rows: dict[str, list[float]] = {}
        if self._path is None or not self._path.exists():
            return
        try:
            held = json.loads(self._path.read_text(encoding="utf-8"))
            found, rows = held["key"], dict(held["rows"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"saved must be a file that this function wrote, got {str(path)!r}"
            ) from error
        if found != self._key:
            raise ValueError(
                "saved must be of the same model, by and delta, which are "
                f"{self._key}, got {found} in {str(path)!r}; name another file, or delete it"
            )
        self._rows = rows

    def of(self, example: Example) -> list[float] | None:
        return self._rows.get(example.name())

    def save(self, example: Example, row: list[float]) -> None:
        if self._path is None or example.name() in self._rows:
            return
        self._rows[example.name()] = row
        write_text(self._path, json_text({"key": self._key, "rows": self._rows}))
