# SPDX-License-Identifier: MIT
"""From the settings of a run to its cells, in batches that never change.

Batches are made of all cells of a run, done or not. So an interruption never changes what an answer
is padded with, and with it the last bits of its logits.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from guide_ext.embedded import EMBEDDED
from guide_ext.integration.loading import DTYPES
from guide_ext.studies.cells import ANSWER, Cell, Condition, Decoding, Row
from guide_ext.studies.data.documents import PYTHON_DOCS
from guide_ext.studies.data.task import Task
from guide_ext.studies.registry import MEASUREMENTS, studies_named
from guide_ext.studies.study import Study

_EMBEDDED_NEW_TOKENS = 40  # the longest right answer has 30
_EMBEDDED_SAMPLES = 3
_EMBEDDED_DOCUMENTS = 60
_WINDOW, _WINDOWS = 500, 8
_FEW_CHARACTERS = 64  # whose computing takes next to no time
_TEXT_COLUMN = "text"


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run. A run with other settings needs a folder of its own.

    Attributes:
        studies: Names of studies. None stand for all studies that the data allow; the attribute
            then names them.
        model: As for ``guide_ext.integration.load``.
        data: A ``.jsonl`` or ``.parquet`` file, ``hub:NAME``, or ``"python-docs"`` for the prose of
            Python's own documentation; None for the embedded world.
        text_column: Column of the texts.
        reference_column: Column of the reference summaries; None if there are none.
        documents: Number of documents in each range of lengths; None for the paper's.
        samples: Number of answers to each document and condition, in studies that sample several;
            None for the study's.
        deltas: Biases in nats, in place of those of studies that vary Δ; None for the study's.
        windows: How many ranges of lengths documents are taken from, shortest first.
        window: Tokens in each of these ranges.
        seed: Seed of documents and answers.
        batch_size: Number of prompts that run together.
        dtype: Dtype of the weights.
        chat: Whether to use the model's chat template, if it has one.
        bertscore: Encoder for BERTScore; None for no BERTScore.
        bertscore_layer: Layer of the encoder, where bert-score does not know one.
        max_new_tokens: Length of the longest answer, in tokens, where it is below that of the task;
            None for the task's.
        tasks: Which tasks are asked, where a study has several; none for all.
        kinds: Which kinds of questions are asked, where a task has several; none for all.
        baselines: Whether studies have other conditions than Δ on the marked part: other wordings,
            other parts, other methods.
        heads: Layers and heads, counted from 0, for the methods that act in chosen heads alone;
            none for no such methods.

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
    text_column: str = _TEXT_COLUMN
    reference_column: str | None = None
    documents: int | None = None
    samples: int | None = None
    deltas: tuple[float, ...] | None = None
    windows: int = _WINDOWS
    window: int = _WINDOW
    seed: int = 42
    batch_size: int = 32
    dtype: str = "auto"
    chat: bool = True
    bertscore: str | None = None
    bertscore_layer: int | None = None
    max_new_tokens: int | None = None
    tasks: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    baselines: bool = True
    heads: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.data == PYTHON_DOCS:
            self._check_no_columns()
        object.__setattr__(self, "studies", tuple(study.name for study in self._wanted()))
        self._check_tasks()
        for name in (
            "documents", "samples", "windows", "window", "batch_size", "max_new_tokens"
        ):  # fmt: skip
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
                f"knows, got none for {self.model!r}; name a file of texts, or {PYTHON_DOCS!r}"
            )
        if self.data is None and self.window != _WINDOW:
            raise ValueError(
                f"window must be left at {_WINDOW} without data, because the embedded world has "
                f"ranges of its own, got {self.window!r}"
            )
        if self.bertscore is not None and self.reference_column is None:
            raise ValueError(
                "reference_column must be given with bertscore, which compares summaries with "
                "references, got none"
            )

    def _check_no_columns(self) -> None:
        for name, usual in (("text_column", _TEXT_COLUMN), ("reference_column", None)):
            value = getattr(self, name)
            if value != usual:
                raise ValueError(
                    f"{name} must be left out with the data {PYTHON_DOCS!r}, which have texts and "
                    f"no columns, got {value!r}"
                )
        for study in studies_named(self.studies) if self.studies else ():
            if study.trains_on:
                raise ValueError(
                    f"data must have references for the study {study.name}, which trains on "
                    f"{study.trains_on}, got {PYTHON_DOCS!r}, which have none; name other data or "
                    "other studies"
                )

    def _check_tasks(self) -> None:
        of_studies = {
            study.name: [task.name for task in study.tasks_of(is_embedded=self.is_embedded)]
            for study in studies_named(self.studies)
        }
        known = dict.fromkeys(name for names in of_studies.values() for name in names)
        unknown = [name for name in self.tasks if name not in known]
        if unknown:
            raise ValueError(
                f"tasks must be among those of the studies, {', '.join(known)}, "
                f"got {', '.join(unknown)}"
            )
        for study, names in of_studies.items():
            if self.tasks and not set(names) & set(self.tasks):
                raise ValueError(
                    f"tasks must have one of the study {study}, {', '.join(names)}, "
                    f"got {', '.join(self.tasks)}"
                )

    def _wanted(self) -> list[Study]:
        """Return the studies that are named, or all that the data allow."""
        wanted = studies_named(self.studies)
        lacking = {}
        if self.data is None:
            lacking = {
                study.name: f"data must be given for the study {study.name}, which asks what the "
                "embedded world does not have, got none; name a file of texts, or name other "
                "studies"
                for study in wanted
                if not study.has_embedded_tasks
            }
        elif self.reference_column is None:
            lacking = {
                study.name: f"reference_column must be given for the study {study.name}, which "
                f"trains on {study.trains_on}, got none; name it, or name other studies"
                for study in wanted
                if study.trains_on
            }
        if self.studies and lacking:
            raise ValueError(next(iter(lacking.values())))
        return [study for study in wanted if study.name not in lacking]

    @property
    def is_embedded(self) -> bool:
        """Whether the documents are those of the embedded world."""
        return self.data is None

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """Ranges ``(from, to]`` of the lengths of documents, in tokens."""
        return [(self.window * index, self.window * (index + 1)) for index in range(self.windows)]

    def documents_of(self, task: Task) -> int:
        """Return how many documents a task takes from each range of lengths."""
        usual = _EMBEDDED_DOCUMENTS if self.is_embedded else task.documents
        return usual if self.documents is None else self.documents

    def samples_of(self, study: Study) -> int:
        """Return how many answers a study samples for each document and condition."""
        if self.samples is not None and study.samples > 1:
            return self.samples
        return min(study.samples, _EMBEDDED_SAMPLES) if self.is_embedded else study.samples

    def decoding_of(self, task: Task) -> Decoding:
        """Return how the answers of a task are decoded."""
        longest = _EMBEDDED_NEW_TOKENS if self.is_embedded else task.decoding.max_new_tokens
        return replace(task.decoding, max_new_tokens=min(longest, self.max_new_tokens or longest))

    def asks(self, row: Row) -> bool:
        """Return whether a row is of a kind that is asked."""
        return not row.kind or not self.kinds or row.kind in self.kinds

    def to_json(self) -> dict[str, Any]:
        """Return plain data that JSON saves and reads without a change."""
        return {name: _lists(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunSettings:
        """Read plain data; settings that it lacks get their default."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(value) - known)
        if unknown:
            raise ValueError(f"settings must have known names, got {', '.join(unknown)}")
        read: dict[str, Any] = {key: _tuples(v) for key, v in value.items()}
        return cls(**read)


def _lists(value: Any) -> Any:
    return [_lists(one) for one in value] if isinstance(value, tuple | list) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, tuple | list) else value


def tasks_of(settings: RunSettings) -> list[Task]:
    """Return the tasks of the studies of a run, each once."""
    studies = studies_named(settings.studies)
    return list({task.name: task for one in studies for task in _tasks(one, settings)}.values())


def _tasks(study: Study, settings: RunSettings) -> list[Task]:
    """Return the tasks of one study that a run asks."""
    own = study.tasks_of(is_embedded=settings.is_embedded)
    return [task for task in own if not settings.tasks or task.name in settings.tasks]


def training_study(settings: RunSettings) -> Study | None:
    """Return the study of a run that fine-tunes models; None if there is none."""
    return next((study for study in studies_named(settings.studies) if study.trains_on), None)


def study_cells(
    study: Study, settings: RunSettings, rows: Iterable[Row], adapters: Sequence[int] = ()
) -> list[Cell]:
    """List the cells of one study.

    Args:
        study: The study.
        settings: Settings of the run.
        rows: The rows of the run; those of other tasks are left out.
        adapters: Trained tokens after which models are saved; a study that fine-tunes asks them.

    """
    tasks = {task.name: task for task in _tasks(study, settings)}
    conditions = study.conditions(
        settings.deltas,
        baselines=settings.baselines,
        on_texts=not settings.is_embedded,
        with_heads=bool(settings.heads),
    )
    cells = []
    rows = [row for row in rows if row.task in tasks and settings.asks(row)]
    measured = {
        (row.task, row.id)
        for name in tasks
        for row in _measured(study, [row for row in rows if row.task == name])
    }
    for row in rows:
        decoding = settings.decoding_of(tasks[row.task])
        samples = settings.samples_of(study) if decoding.temperature > 0 else 1
        if study.answers:
            cells += [
                Cell(ANSWER, row, condition, sample, decoding, settings.seed)
                for condition in conditions
                if row.has(condition.parts)
                for sample in range(samples)
            ]
        if study.trains_on:
            cells += [
                Cell(ANSWER, row, Condition(), 0, decoding, settings.seed, tokens)
                for tokens in adapters
            ]
        if (row.task, row.id) in measured:
            cells += [Cell(one.kind, row, Condition(), 0, None, 0) for one in study.measurements]
    return cells


def _measured(study: Study, of_task: Sequence[Row]) -> Sequence[Row]:
    """Return those of the rows of a task that a study measures."""
    return of_task if study.measured is None else study.measured(of_task)


def batches_of(cells: Sequence[Cell], batch_size: int) -> list[list[Cell]]:
    """Put cells that can run together into batches.

    What stands before the first stressed part is computed once for all prompts of a batch that
    begin so (`guide_ext.integration.prefixes`), and all prompts are computed from the same number
    of tokens before their end. So batches are of similar length behind that place, and prompts
    about one document come together. Prompts that begin as no other does go by length.

    Args:
        cells: The cells of all studies of a run; repeated cells count once.
        batch_size: Largest number of cells in a batch.

    """
    groups: dict[tuple[Any, ...], dict[str, Cell]] = defaultdict(dict)
    for cell in cells:
        # The model itself comes before the fine-tuned ones.
        adapter = -1 if cell.adapter is None else cell.adapter
        common = cell.condition.of_a_batch
        groups[adapter, cell.kind, cell.decoding, common][cell.key] = cell
    batches = []
    for group in sorted(groups, key=repr):
        found = groups[group].values()
        alike = Counter(_beginning(cell) for cell in found)
        ordered = sorted(found, key=lambda cell: _order(cell, alike[_beginning(cell)]))
        size = _largest(group[1], batch_size)
        batches += [ordered[i : i + size] for i in range(0, len(ordered), size)]
    return batches


def _largest(kind: str, batch_size: int) -> int:
    """Return how many cells of a kind a batch has at most."""
    most = None if kind == ANSWER else MEASUREMENTS[kind].most
    return batch_size if most is None else min(most, batch_size)


def _beginning(cell: Cell) -> str:
    """Return what stands before the first stressed part; nothing where no answer is asked for."""
    row = cell.row
    start = row.first_of(cell.condition.parts) if cell.kind == ANSWER else 0
    return f"{row.before}{row.marked}{row.after}"[:start]


def _order(cell: Cell, alike: int) -> tuple[Any, ...]:
    """Return the place of a cell among others; `alike` is how many begin as it does."""
    row, start = cell.row, len(_beginning(cell))
    if start == 0 or alike == 1:
        return 0, row.tokens, "", row.id, cell.key
    rest = len(row.before) + len(row.marked) + len(row.after) - start
    # In steps of a quarter of an octave, because documents should not be torn apart.
    return 1, round(4 * math.log2(rest + _FEW_CHARACTERS)), row.document, row.id, cell.key


def all_cells(
    settings: RunSettings, rows: Sequence[Row], adapters: Sequence[int] = ()
) -> dict[str, list[Cell]]:
    """Return the cells of every study of a run, by the study's name."""
    return {
        study.name: study_cells(study, settings, rows, adapters)
        for study in studies_named(settings.studies)
    }
