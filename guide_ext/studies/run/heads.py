# SPDX-License-Identifier: MIT
"""Choose the heads for methods that act in some heads alone, on documents of their own.

PASTA (Zhang et al. 2023, "multi-task model profiling") steers one head at a time, asks
a sample of each task's training documents, and ranks the heads by the accuracy that each reaches.
Here, too, each head is steered alone. What differs, so that a laptop can do it:

* A head is ranked by how much the log-likelihood of the right answer rises, which shows small gains
  on few documents. Accuracy is a step: with one head it mostly stays where it is. The answer is
  right in any of its ways (`ways_to_say`), whose probabilities are added: models repeat the marked
  sentence more often than they say its one word.
* The head is steered with GUIDE's Δ on the marked part, not by playing the rest down.
* The gains of several tasks are averaged. PASTA intersects the best heads of each task.
* A dozen documents must do.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from guide_ext import integration
from guide_ext.integration import Example
from guide_ext.integration.profile import heads_to_keep
from guide_ext.studies.cells import ANSWER, Cell, Condition, Row
from guide_ext.studies.data.facts import ASIDE
from guide_ext.studies.data.task import Task
from guide_ext.studies.plan import RunSettings, tasks_of
from guide_ext.studies.run.engine import Marks, model_of_run, prompt_of
from guide_ext.studies.run.rows import rows_of
from guide_ext.support.files import json_text


@dataclass(frozen=True)
class HeadProfile:
    """What each head does alone, and the heads that were chosen.

    Attributes:
        heads: The chosen heads as (layer, head), best first, both counted from 0.
        gains: For each layer and head, by how many nats the log-likelihood of the right answer
            rises, mean over the documents.
        gain_everywhere: The same with all heads steered together.
        plain: Mean log-likelihood of the right answer without steering, nats.
        delta: Δ on the marked part, nats.
        documents: How many documents were asked about.
        studies: The studies whose tasks were asked.
        model: The model.
        data: Where the texts are from; None for the embedded world.
        window: Longest document, in tokens; None for those of the embedded world.
        seed: Seed of the documents.
        dtype: Dtype of the weights, as it was asked for.

    """

    heads: tuple[tuple[int, int], ...]
    gains: tuple[tuple[float, ...], ...]
    gain_everywhere: float
    plain: float
    delta: float
    documents: int
    studies: tuple[str, ...]
    model: str
    data: str | None
    window: int | None
    seed: int
    dtype: str

    def to_json(self) -> str:
        """Return it as JSON, with one layer a line."""
        facts = asdict(self)
        gains = ",\n    ".join(json_text(row) for row in facts.pop("gains"))
        lines = [f"{json_text(name)}: {json_text(value)}" for name, value in facts.items()]
        body = ",\n  ".join([*lines, f'"gains": [\n    {gains}\n  ]'])
        return f"{{\n  {body}\n}}\n"


def profile_heads(
    settings: RunSettings,
    *,
    keep: int | None = None,
    delta: float = 2.0,
    device: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> HeadProfile:
    """Steer each head alone, and keep those that raise the likelihood of the right answer most.

    Each document is asked about once, in one of the ways that its task has; these take turns.
    The documents must not be those on which the heads are used: give another seed. Documents of
    ``python-docs`` are different with another seed, but share paragraphs, as the source is small;
    of a file, another seed may draw some texts again.

    Args:
        settings: Model, texts and studies. Its `documents` are those of each range of lengths, for
            each task.
        keep: How many heads to keep; None for 9 %.
        delta: Δ on the marked part, nats.
        device: Device of the model; None for a GPU if there is one.
        on_progress: Called with the number of likelihoods that are known and of all.
        on_note: Called with remarks for the user.

    Returns:
        The chosen heads, and what each head does. The same arguments give the same result.

    Raises:
        ValueError: If a task has no right answers, `keep` or `delta` is out of range, or the model
            cannot be steered by head or cannot take a prompt.

    Example:
        >>> settings = RunSettings(studies=("needle",), documents=1, seed=7)
        >>> found = profile_heads(settings, keep=2)
        >>> len(found.heads), found.documents
        (2, 6)
        >>> layer, head = found.heads[0]
        >>> found.gains[layer][head] == max(max(row) for row in found.gains)
        True

    """
    model, tokenizer = model_of_run(settings, device)
    layers, heads = integration.table_size(model)
    keep = heads_to_keep(keep, layers * heads)  # before the work
    rows = [
        row
        for task in tasks_of(settings)
        for row in _rows(task, settings, tokenizer, on_note or (lambda text: None))
    ]
    found = integration.profile_heads(
        model,
        tokenizer,
        [
            Example(
                prompt_of(settings, tokenizer, _cell(row), Marks.EMPHASIS), tuple(ways_to_say(row))
            )
            for row in rows
        ],
        delta=delta,
        batch_size=settings.batch_size,
        on_progress=on_progress,
    )
    assert found.plain is not None
    assert found.gain_everywhere is not None
    return HeadProfile(
        heads=found.best(keep),
        gains=found.scores,
        gain_everywhere=found.gain_everywhere,
        plain=found.plain,
        delta=found.delta,
        documents=found.examples,
        studies=settings.studies,
        model=settings.model,
        data=settings.data,
        window=None if settings.is_embedded else settings.window,
        seed=settings.seed,
        dtype=settings.dtype,
    )


def _rows(
    task: Task, settings: RunSettings, tokenizer: Any, note: Callable[[str], None]
) -> list[Row]:
    """Return one row of each document; the ways to ask are drawn in equal shares."""
    rows, bad = rows_of(task, settings, tokenizer, [])
    if not all(row.answer for row in rows):
        raise ValueError(
            "studies must have tasks with one right answer, whose likelihood tells what a head "
            f"does, such as needle and conflict, got {task.name}"
        )
    if bad:
        note(f"left out: {len(bad)} texts, the first of them {bad[0].id}: {bad[0].error}")
    ways: dict[str, list[Row]] = {}
    for row in rows:
        ways.setdefault(row.document, []).append(row)
    # Drawn, because kinds of questions take turns as well, and would go with one way each.
    turns = list(range(len(ways)))
    random.Random(f"heads {settings.seed} {task.name}").shuffle(turns)
    return [own[turn % len(own)] for own, turn in zip(ways.values(), turns, strict=True)]


def ways_to_say(row: Row) -> list[str]:
    """Return ways to say the right answer: alone, and as the marked sentence says it.

    Example:
        >>> marked = "By the way, the boat of the fisherman is painted red."
        >>> ways_to_say(Row("a", "needle", "", marked, "", 3, (0, 500), "red"))
        ['red', 'The boat of the fisherman is painted red']

    """
    if row.answer not in row.marked:
        return [row.answer]
    # What comes behind the answer no longer matters.
    sentence = row.marked[: row.marked.rindex(row.answer) + len(row.answer)].removeprefix(ASIDE)
    return [row.answer, sentence[0].upper() + sentence[1:]]


def _cell(row: Row) -> Cell:
    return Cell(ANSWER, row, Condition())


def check_held_out(text: str, settings: RunSettings) -> list[str]:
    """Check that the heads of a file were not chosen on the very documents of a run.

    Args:
        text: The file: what `HeadProfile.to_json` wrote, or a bare list, of which nothing is known.
        settings: Settings of the run.

    Returns:
        Remarks for the user.

    Raises:
        ValueError: If texts and seed of the run are those on which the heads were chosen.

    Example:
        >>> check_held_out('{"heads": [[0, 1]], "model": "a", "data": null, "seed": 42}',
        ...                RunSettings(studies=("needle",)))
        Traceback (most recent call last):
        ...
        ValueError: seed must differ from that of the documents on which the heads were chosen, 42,
        or they are measured on what chose them, got 42

    """
    facts = json.loads(text)
    if not isinstance(facts, dict):
        return []
    if "seed" in facts and (facts["seed"], facts.get("data")) == (settings.seed, settings.data):
        raise ValueError(
            "seed must differ from that of the documents on which the heads were chosen, "
            f"{facts['seed']}, or they are measured on what chose them, got {settings.seed}"
        )
    chosen_on = facts.get("model")
    if chosen_on is None or chosen_on == settings.model:
        return []
    return [f"the heads were chosen on the model {chosen_on}, and this is {settings.model}"]
