# SPDX-License-Identifier: MIT
"""Rows, conditions and cells: the units of work of a study.

A *row* is a document with a question about it. A *condition* says how the marked part of its prompt
is stressed. A *cell* is one row under one condition, answered once or measured once. No cell
depends on another, and studies that need the same cell share it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from guide_ext.embedded.world import Style

MARKED = "marked"
"""The part of a row that a condition stresses unless it says otherwise: `Row.marked`."""
ANSWER = "answer"
"""The kind of a cell that writes an answer; those of `guide_ext.studies.measurement` measure."""
_DEPTH = re.compile(r"@[\d.]+$")


@dataclass(frozen=True)
class Row:
    """One document of a task, with what is asked about it.

    Attributes:
        id: Its name in tables and failures. One document can give several rows: their names end
            in an ``@`` and a number.
        task: Name of its task.
        before: Text before the marked part.
        marked: The part that is marked: the instruction, or the sentence to be found.
        after: Text after the marked part.
        tokens: Length of the document, in tokens of the model's tokenizer.
        length: The range of lengths it belongs to, ``(from, to]``.
        answer: The one right answer, or a reference summary; empty if there is none.
        keys: Keys that a JSON answer must have.
        depth: Where the needle is, from 0 at the start of the document to 1; None without one.
        parts: Other parts of the prompt that a condition can stress: names and texts. All places
            are meant where a text stands in `before` or `after`. A part can have several texts.
        variant: How the prompt is put, where a task has several ways.
        kind: What is asked, where a task asks several things.

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
    parts: tuple[tuple[str, str], ...] = ()
    variant: str = ""
    kind: str = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Row:
        """Read a row that ``dataclasses.asdict`` wrote and JSON saved."""
        lists = {
            "length": tuple(value["length"]),
            "keys": tuple(value["keys"]),
            "parts": tuple((name, text) for name, text in value.get("parts", ())),
        }
        return cls(**{**value, **lists})

    def has(self, parts: Iterable[str]) -> bool:
        """Return whether the prompt has all of some parts.

        Example:
            >>> row = Row("a", "needle", "", "", "Who?", 3, (0, 500), parts=(("question", "Who?"),))
            >>> row.has(["marked", "question"]), row.has(["other"])
            (True, False)

        """
        return set(parts) <= {MARKED, *(name for name, _ in self.parts)}

    def first_of(self, parts: Iterable[str]) -> int:
        """Return where the first of some parts begins in the prompt, in characters.

        Example:
            >>> row = Row("a", "needle", "Who?", "Me.", "", 3, (0, 500), parts=(("question", "?"),))
            >>> row.first_of(["marked"]), row.first_of(["marked", "question"])
            (4, 3)

        """
        whole = f"{self.before}{self.marked}{self.after}"
        return min(
            place
            for part in parts
            for place in (
                [len(self.before)]
                if part == MARKED
                else [whole.index(text) for text in self.texts_of(part)]
            )
        )

    def texts_of(self, part: str) -> list[str]:
        """Return the texts of one of `parts`; none if there is no such part."""
        return [text for name, text in self.parts if name == part]

    @property
    def document(self) -> str:
        """Name of its document; rows with the needle at different depths share one.

        Example:
            >>> Row("texts@home.jsonl:3@0.5", "needle", "", "", "", 3, (0, 500)).document
            'texts@home.jsonl:3'

        """
        return _DEPTH.sub("", self.id)

    @property
    def digest(self) -> str:
        """Hash of the task and of all text that the model sees."""
        return digest([self.task, self.before, self.marked, self.after])


class Where(Enum):
    """The layers and heads in which Δ acts."""

    EVERYWHERE = ""
    EARLY = "first third of the layers"
    MIDDLE = "middle third of the layers"
    LATE = "last third of the layers"
    HEADS = "chosen heads"
    PASTA = "PASTA, chosen heads"


@dataclass(frozen=True)
class Condition:
    """How a part of a prompt is stressed.

    Attributes:
        style: How the marked part is written; the baselines write it in capitals or behind
            “Important:”, for example.
        delta: Bias on the stressed parts, in nats. PASTA plays the others down by as much.
        parts: Names of the parts that are stressed: `MARKED` or those of `Row.parts`.
        share: In place of Δ: the minimum share of the attention that the parts get in every row of
            every head; 0 for none.
        where: Where Δ acts.
        guidance: In place of a guided answer, Prompt-Highlighter's: what this scale makes of the
            difference between the parts raised and played down by Δ; 0 for none.
        gain: In place of Δ: SEKA's g⁺ on the keys of the parts; 0 for none.

    Example:
        >>> Condition(delta=2.0).name, Condition(Style.UPPER).name
        ('Δ = 2', 'upper case')
        >>> Condition(delta=2.0, parts=("marked", "question")).name, Condition(share=0.1).name
        ('Δ = 2 on marked and question', 'share ≥ 0.1')
        >>> Condition(delta=2.0, guidance=1.5).name
        'Δ = 2, contrast × 1.5'
        >>> Condition(gain=0.8).name
        'keys, g⁺ = 0.8'

    """

    style: Style = Style.PLAIN
    delta: float = 0.0
    parts: tuple[str, ...] = (MARKED,)
    share: float = 0.0
    where: Where = Where.EVERYWHERE
    guidance: float = 0.0
    gain: float = 0.0

    @property
    def name(self) -> str:
        """Its name in tables."""
        if self.style is not Style.PLAIN:
            return STYLE_NAMES[self.style]
        name = f"share ≥ {self.share:g}" if self.share else f"Δ = {self.delta:g}"
        if self.gain:
            name = f"keys, g⁺ = {self.gain:g}"
        if self.parts != (MARKED,):
            name += f" on {' and '.join(self.parts)}"
        if self.guidance:
            name += f", contrast × {self.guidance:g}"
        return f"{name}, {self.where.value}" if self.where.value else name

    @property
    def way(self) -> str:
        """What it does besides a Δ on the marked part; ``"plain"`` for nothing.

        Example:
            >>> Condition(delta=2.0).way, Condition(Style.UPPER).way, Condition(share=0.1).way
            ('plain', 'upper', 'share')

        """
        if self.style is not Style.PLAIN:
            return str(self.style.value)
        ways = ["+".join(self.parts)] if self.parts != (MARKED,) else []
        ways += ["share"] if self.share else []
        ways += ["contrast"] if self.guidance else []
        ways += ["keys"] if self.gain else []
        return ", ".join([*ways, *filter(None, [self.where.value])]) or "plain"

    @property
    def of_a_batch(self) -> tuple[float, float, float, float]:
        """What all cells of a batch must have in common."""
        return self.share, self.guidance, self.delta if self.guidance else 0.0, self.gain


STYLE_NAMES = {
    Style.UPPER: "upper case",
    Style.IMPORTANT: "“Important:”",
    Style.REPEATED: "said twice",
    Style.ATTENTION: "“Pay close attention to this:”",
    Style.MOST: "“This is the most important part:”",
}
"""What tables call the ways of writing that stress a part."""


@dataclass(frozen=True)
class Decoding:
    """How answers are decoded.

    Attributes:
        max_new_tokens: Length of the longest answer, in tokens.
        temperature: 0 for greedy decoding; above 0, answers are sampled.

    """

    max_new_tokens: int
    temperature: float = 0.0


@dataclass(frozen=True)
class Cell:
    """One document, one condition, one answer or measurement.

    Attributes:
        kind: `ANSWER`, or the kind of a measurement.
        row: The document.
        condition: How its marked part is stressed.
        sample: Number of the answer among several samples, from 0; 0 without sampling.
        decoding: How the answer is decoded; None for measurements.
        seed: Seed of the run.
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
        """Hash that names the cell. Two studies that ask for the same work get the same key.

        Example:
            >>> row = Row("a", "french", "", "Summarize in French", " The cat.", 3, (0, 500))
            >>> len(Cell(ANSWER, row, Condition()).key)
            40

        """
        return digest([self.kind, self.row.digest, self._settings()])

    @property
    def random_seed(self) -> int:
        """Seed of the cell's own random numbers; order and batch do not change it.

        All conditions of one document and sample share it, so a difference between them is not
        one of luck.
        """
        return int(digest([self.row.digest, self.sample, self.seed])[:15], 16)

    def described(self) -> dict[str, Any]:
        """Return what the shard of the cell holds besides the result."""
        return {"kind": self.kind, "task": self.row.task, "row": self.row.id, **self._settings()}

    def _settings(self) -> dict[str, Any]:
        condition = self.condition
        # What is usual is left out, so that cells of before these existed keep their keys.
        unusual = {
            "parts": list(condition.parts) if condition.parts != (MARKED,) else None,
            "share": condition.share or None,
            "where": condition.where.value or None,
            "guidance": condition.guidance or None,
            "gain": condition.gain or None,
        }
        return {
            "style": condition.style.value,
            "delta": condition.delta,
            **{name: value for name, value in unusual.items() if value is not None},
            "sample": self.sample,
            "decoding": None if self.decoding is None else asdict(self.decoding),
            "seed": self.seed,
            "adapter": self.adapter,
        }


def digest(value: Any) -> str:
    """Return the SHA-1 of plain data as a hex string: a name, not a protection."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
