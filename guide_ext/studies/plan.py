# SPDX-License-Identifier: MIT
"""From the settings of a run to its cells, in batches that never change.

Batches are made from all cells of a run, whether they are done or not. What an answer is padded
with then does not depend on when a run was interrupted, and neither does its last bit.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from guide_ext.integration.loading import DTYPES
from guide_ext.studies.study import (
    ANSWER,
    STUDIES,
    Cell,
    Condition,
    Decoding,
    Row,
    Study,
    studies_named,
)

EMBEDDED = "embedded"
SFT = "sft"
_EMBEDDED_NEW_TOKENS = 40  # the longest right answer has 30
_NEW_TOKENS = {"french": 200, "needle": 30, "json": 1000}  # the paper's
_SAMPLED = ("french",)
_EMBEDDED_SAMPLES = 3
_EMBEDDED_DOCUMENTS = {"french": 60, "needle": 60, "json": 60}
_DOCUMENTS = {"french": 20, "needle": 25, "json": 38}  # the paper's, of every range of lengths
_WINDOW, _WINDOWS = 500, 8


@dataclass(frozen=True)
class RunSettings:
    """What a run is; another one needs another folder.

    Attributes:
        studies: Names of studies; none for all that the data allow, which then are named here.
        model: A checkpoint folder, a hub id, or ``"embedded"``.
        data: A ``.jsonl`` or ``.parquet`` file or ``hub:NAME``; None for the embedded world.
        text_column: Of the data.
        reference_column: Of the data: reference summaries.
        documents: Documents of each range of lengths; None for the paper's number.
        samples: Answers per document and condition of studies that sample several; None for the
            study's.
        deltas: Strengths in nats instead of each study's own.
        windows: Ranges of 500 tokens that documents are taken from, from the shortest.
        seed: Of documents and answers.
        batch_size: Prompts that run together.
        dtype: Of the weights.
        chat: Whether to use the model's chat template where it has one.
        bertscore: Encoder for BERTScore; None for no BERTScore.
        bertscore_layer: Its layer, for an encoder that bert-score does not know.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> RunSettings(documents=0)
        Traceback (most recent call last):
        ...
        ValueError: documents must be a whole number from 1, got 0

    """

    studies: tuple[str, ...] = ()
    model: str = EMBEDDED
    data: str | None = None
    text_column: str = "text"
    reference_column: str | None = None
    documents: int | None = None
    samples: int | None = None
    deltas: tuple[float, ...] | None = None
    windows: int = _WINDOWS
    seed: int = 42
    batch_size: int = 32
    dtype: str = "auto"
    chat: bool = True
    bertscore: str | None = None
    bertscore_layer: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        has_summaries = self.data is None or self.reference_column is not None
        if not has_summaries and SFT in self.studies:
            raise ValueError(
                f"reference_column must be given for the study {SFT}, which trains on French "
                "summaries, got none; name it, or name other studies"
            )
        wanted = [study.name for study in studies_named(self.studies)]
        if not self.studies and not has_summaries:
            wanted.remove(SFT)
        object.__setattr__(self, "studies", tuple(wanted))
        for name in ("documents", "samples", "windows", "batch_size"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number from 1, got {value!r}")
        if self.deltas is not None:
            for delta in self.deltas:
                if not math.isfinite(delta):
                    raise ValueError(f"deltas must be finite numbers of nats, got {delta!r}")
            # 2 and 2.0, in whatever order, name the same cells.
            object.__setattr__(self, "deltas", tuple(sorted({float(d) for d in self.deltas})))
        if self.dtype not in DTYPES:
            raise ValueError(
                f"dtype must be one of {', '.join(map(repr, DTYPES))}, got {self.dtype!r}"
            )
        if self.data is None and self.model != EMBEDDED:
            raise ValueError(
                f"data must be given for another model than {EMBEDDED!r}, whose world no other "
                f"knows, got none for {self.model!r}; name a file of texts"
            )
        if self.bertscore is not None and self.reference_column is None:
            raise ValueError(
                "reference_column must be given with bertscore, which compares summaries with "
                "references, got none"
            )

    @property
    def is_embedded(self) -> bool:
        """Whether the documents are those of the embedded world."""
        return self.data is None

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """Ranges of lengths of documents, in tokens."""
        return [(_WINDOW * index, _WINDOW * (index + 1)) for index in range(self.windows)]

    def documents_of(self, task: str) -> int:
        """Return how many documents a task takes of every range of lengths."""
        usual = _EMBEDDED_DOCUMENTS if self.is_embedded else _DOCUMENTS
        return usual[task] if self.documents is None else self.documents

    def samples_of(self, study: Study) -> int:
        """Return how many answers are sampled."""
        if self.samples is not None and study.samples > 1:
            return self.samples
        return min(study.samples, _EMBEDDED_SAMPLES) if self.is_embedded else study.samples

    def decoding_of(self, task: str) -> Decoding:
        """Return how the answers of a task are written, as in the paper."""
        tokens = _EMBEDDED_NEW_TOKENS if self.is_embedded else _NEW_TOKENS[task]
        return Decoding(tokens, 1.0 if task in _SAMPLED else 0.0)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, equal to what JSON makes of it."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunSettings:
        """Read plain data; what it lacks has the value of today's default."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(value) - known)
        if unknown:
            raise ValueError(f"settings must have known names, got {', '.join(unknown)}")
        read: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in value.items()
        }
        return cls(**read)


def tasks_of(settings: RunSettings) -> list[str]:
    """Return the tasks that the studies of a run need, each once."""
    return list(dict.fromkeys(task for s in studies_named(settings.studies) for task in s.tasks))


def study_cells(
    study: Study, settings: RunSettings, rows: Iterable[Row], adapters: Sequence[int] = ()
) -> list[Cell]:
    """List the cells of one study.

    Args:
        study: Which.
        settings: Of the run.
        rows: All documents.
        adapters: Tokens after which fine-tuned models are saved; the study ``sft`` asks them all.

    """
    deltas = settings.deltas if len(study.deltas) > 1 and study.name != "delta_limit" else None
    cells = []
    for row in rows:
        if row.task not in study.tasks:
            continue
        decoding = settings.decoding_of(row.task)
        samples = settings.samples_of(study) if decoding.temperature > 0 else 1
        if study.answers:
            cells += [
                Cell(ANSWER, row, condition, sample, decoding, settings.seed)
                for condition in study.conditions(deltas)
                for sample in range(samples)
            ]
        if study.name == SFT:
            cells += [
                Cell(ANSWER, row, Condition(), 0, decoding, settings.seed, tokens)
                for tokens in adapters
            ]
        cells += [Cell(kind, row, Condition(), 0, None, 0) for kind in study.measures]
    return cells


def batches_of(cells: Sequence[Cell], batch_size: int) -> list[list[Cell]]:
    """Put cells that can run together into batches of similar length.

    Args:
        cells: Of all studies of a run; the same cell may come twice.
        batch_size: Most of one batch.

    """
    groups: dict[tuple[Any, ...], dict[str, Cell]] = defaultdict(dict)
    for cell in cells:
        # The model itself before those that are fine-tuned.
        adapter = -1 if cell.adapter is None else cell.adapter
        groups[adapter, cell.kind, cell.decoding][cell.key] = cell
    batches = []
    for group in sorted(groups, key=repr):
        ordered = sorted(
            groups[group].values(), key=lambda cell: (cell.row.tokens, cell.row.id, cell.key)
        )
        batches += [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
    return batches


def all_cells(
    settings: RunSettings, rows: Sequence[Row], adapters: Sequence[int] = ()
) -> dict[str, list[Cell]]:
    """Return the cells of every study of a run, by the study's name."""
    return {
        study.name: study_cells(study, settings, rows, adapters)
        for study in STUDIES.values()
        if study in studies_named(settings.studies)
    }
