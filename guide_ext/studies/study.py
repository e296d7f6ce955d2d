# SPDX-License-Identifier: MIT
"""What a study is made of: documents, conditions, cells; and the list of the paper's studies.

A *cell* is the smallest piece of work, and independent of every other: one document under one
condition, answered once or measured once. A study is a set of cells and the tables made of them;
two studies that need the same cell share it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from guide_ext.embedded.world import Style

ANSWER, MEASURE, NORMS = "answer", "measure", "norms"
"""Kinds of cells: an answer is written, or Influence or norms are read off one forward pass."""
RATIO_BINS = 100
"""Bins of the histogram of norms in a factor of ten."""
_DEPTH = re.compile(r"@[\d.]+$")


@dataclass(frozen=True)
class Row:
    """One document of a task, with what is asked about it.

    Attributes:
        id: Names it, in tables and in failures; a number behind an ``@`` at its end tells apart
            several rows made of one document.
        task: ``"french"``, ``"needle"`` or ``"json"``.
        before: Text in front of the marked part.
        marked: The part that is marked: the instruction, or the sentence to be found.
        after: Text behind it.
        tokens: Length of the document, in tokens of the model's tokenizer.
        length: The range of lengths it belongs to, ``(from, to]``.
        answer: The one right answer, or a reference summary; empty if there is none.
        keys: Keys that a JSON answer must have.
        depth: Where the needle is, from 0 at the start of the document to 1; None without one.

    """

    id: str
    task: str
    before: str
    marked: str
    after: str
    tokens: int
    length: tuple[int, int]
    answer: str = ""
    keys: tuple[str, ...] = ()
    depth: float | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Row:
        """Read what ``dataclasses.asdict`` and JSON made of a row."""
        length, keys = tuple(value["length"]), tuple(value["keys"])
        return cls(**{**value, "length": length, "keys": keys})

    @property
    def document(self) -> str:
        """Which document it is made of: that with a needle at several depths is one.

        Example:
            >>> Row("texts@home.jsonl:3@0.5", "needle", "", "", "", 3, (0, 500)).document
            'texts@home.jsonl:3'

        """
        return _DEPTH.sub("", self.id)

    @property
    def digest(self) -> str:
        """Hash of everything that the model is shown."""
        return digest([self.task, self.before, self.marked, self.after])


@dataclass(frozen=True)
class Condition:
    """How the marked part is stressed.

    Attributes:
        style: How it is written; not plain for the baselines.
        delta: Bias on its tokens, in nats.

    Example:
        >>> Condition(delta=2.0).name, Condition(Style.UPPER).name
        ('Δ = 2', 'upper case')

    """

    style: Style = Style.PLAIN
    delta: float = 0.0

    @property
    def name(self) -> str:
        """What tables call it."""
        if self.style is Style.PLAIN:
            return f"Δ = {self.delta:g}"
        return "upper case" if self.style is Style.UPPER else "“Important:”"


@dataclass(frozen=True)
class Decoding:
    """How answers are written.

    Attributes:
        max_new_tokens: Longest answer.
        temperature: 0 for greedy decoding, else multinomial sampling.

    """

    max_new_tokens: int
    temperature: float = 0.0


@dataclass(frozen=True)
class Cell:
    """One document, one condition, one answer or measurement.

    Attributes:
        kind: ``"answer"``, ``"measure"`` or ``"norms"``.
        row: The document.
        condition: How its marked part is stressed.
        sample: Which of several answers, from 0; always 0 when nothing is sampled.
        decoding: How the answer is written; None for measurements.
        seed: Of the run.
        adapter: Tokens that the model was fine-tuned on before; None for the model itself.

    """

    kind: str
    row: Row
    condition: Condition
    sample: int = 0
    decoding: Decoding | None = None
    seed: int = 0
    adapter: int | None = None

    @property
    def key(self) -> str:
        """Hash that names the cell: equal for equal work, whatever study asks for it.

        Example:
            >>> row = Row("a", "french", "", "Summarize in French", " The cat.", 3, (0, 500))
            >>> len(Cell(ANSWER, row, Condition()).key)
            40

        """
        return digest([self.kind, self.row.digest, self._settings()])

    @property
    def random_seed(self) -> int:
        """Seed of the cell's own random numbers: does not depend on order or batch.

        Conditions of one document and sample share it, so that they are compared on equal luck.
        """
        return int(digest([self.row.digest, self.sample, self.seed])[:15], 16)

    def described(self) -> dict[str, Any]:
        """Return what a shard says about the cell besides its result."""
        return {"kind": self.kind, "task": self.row.task, "row": self.row.id, **self._settings()}

    def _settings(self) -> dict[str, Any]:
        return {
            "style": self.condition.style.value,
            "delta": self.condition.delta,
            "sample": self.sample,
            "decoding": None if self.decoding is None else asdict(self.decoding),
            "seed": self.seed,
            "adapter": self.adapter,
        }


@dataclass(frozen=True)
class Study:
    """One study of the paper.

    Attributes:
        name: What the command line calls it.
        title: What it shows, in a line.
        tasks: Whose documents it needs.
        deltas: Strengths of the marked part, nats.
        styles: Prompt-engineering baselines, at a strength of 0.
        samples: Answers for each document and condition where answers are sampled.
        measures: Kinds of measurement that it needs.
        answers: Whether it needs answers.
        paper: Where the paper has it.

    """

    name: str
    title: str
    tasks: tuple[str, ...]
    deltas: tuple[float, ...] = (0.0,)
    styles: tuple[Style, ...] = ()
    samples: int = 1
    measures: tuple[str, ...] = ()
    answers: bool = True
    paper: str = ""

    def conditions(self, deltas: tuple[float, ...] | None = None) -> list[Condition]:
        """List the conditions, the plain one first; `deltas` replaces the study's own."""
        strengths = self.deltas if deltas is None else tuple(sorted({0.0, *deltas}))
        guided = [Condition(delta=delta) for delta in strengths]
        return [*guided, *(Condition(style) for style in self.styles)]


_BASELINES = (Style.UPPER, Style.IMPORTANT)

STUDIES = {
    study.name: study
    for study in (
        Study(
            "french",
            "a summary in French: how often, over Δ, beside upper case and “Important:”",
            ("french",), (0.0, 0.5, 1.0, 2.0, 5.0), _BASELINES, samples=10,
            paper="Section 3, Fig. 2a; App. C.1, C.2, Fig. 4 and 5, Tables 1 and 2",
        ),
        Study(
            "needle",
            "a sentence hidden in a text: found or not, over length, depth and Δ",
            ("needle",), (0.0, 0.5, 1.0, 2.0, 5.0), paper="App. C.3.1, Fig. 6",
        ),
        Study(
            "json",
            "an answer that must follow a JSON template: its keys and types, over length and Δ",
            ("json",), (0.0, 0.5, 1.0, 2.0, 3.0, 5.0), _BASELINES, paper="App. C.3.2, Fig. 7",
        ),
        Study(
            "predictor",
            "does Influence foretell success? beside rollout, attention and 1 / length",
            ("french", "needle", "json"), samples=10, measures=(MEASURE,),
            paper="App. C.4, Table 3",
        ),
        Study(
            "norms",
            "norms before and after attention, and Influence over length",
            ("french", "json"), measures=(MEASURE, NORMS), answers=False, paper="App. A, Fig. 3",
        ),
        Study(
            "delta_limit",
            "what a large Δ does to the text",
            ("french",), (0.0, 1.0, 2.0, 3.0, 5.0, 7.0, 9.0), paper="App. E",
        ),
        Study(
            "sft",
            "fine-tuning with LoRA against GUIDE, over the tokens trained on",
            ("french",), (0.0, 2.0), paper="Section 3, Fig. 2b; App. D",
        ),
    )
}  # fmt: skip
"""The paper's studies by name."""


def studies_named(names: tuple[str, ...]) -> list[Study]:
    """Return studies in their own order.

    Args:
        names: Names, or none for all.

    Raises:
        ValueError: If there is no such study.

    Example:
        >>> [study.name for study in studies_named(("json", "french"))]
        ['french', 'json']

    """
    unknown = [name for name in names if name not in STUDIES]
    if unknown:
        raise ValueError(f"study must be one of {', '.join(STUDIES)}, got {', '.join(unknown)}")
    return [study for name, study in STUDIES.items() if not names or name in names]


def digest(value: Any) -> str:
    """Return the SHA-1 of plain data as a hex string; names things, and guards nothing."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
