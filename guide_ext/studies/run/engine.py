# SPDX-License-Identifier: MIT
"""Run cells on a model of transformers. Another engine needs no more than the method `run`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import torch

from guide_ext import integration
from guide_ext.embedded import EMBEDDED
from guide_ext.integration.model.state import table_size
from guide_ext.integration.packaged import LICENCE, ORIGIN, PACKAGED, resolved
from guide_ext.integration.rows import answer_rows
from guide_ext.marking.spans import MarkedText, Span
from guide_ext.marking.tags import DEFAULT_GROUP
from guide_ext.steering.seka import KeyProjections
from guide_ext.steering.steering import Steering, grouped_by_layer
from guide_ext.studies.cells import ANSWER, MARKED, Cell, Condition, Row, Where
from guide_ext.studies.plan import RunSettings
from guide_ext.studies.registry import MEASUREMENTS, TASKS
from guide_ext.studies.run.adapters import load_adapter
from guide_ext.studies.run.projections import learned_projections

Result = dict[str, Any]


class UnusableModelError(Exception):
    """The model cannot be run at all. No cell is at fault, and the run ends."""


class Engine(Protocol):
    """Runs batches of cells. The cells of a batch share kind, decoding and adapter."""

    def run(self, cells: Sequence[Cell]) -> list[Result]:
        """Run a batch and return the result of each cell, in order.

        Raises:
            ValueError: If a cell cannot be run; each is then tried alone.
            UnusableModelError: If no cell can be run.

        """


class TransformersEngine:
    """Runs cells on a model of transformers, which it loads for the first batch.

    Args:
        settings: Settings of the run.
        path: Folder of the run, which has the fine-tuned models.
        device: Device of the model; None for a GPU if there is one.

    """

    def __init__(
        self,
        settings: RunSettings,
        path: Path,
        *,
        device: str | None = None,
    ) -> None:
        self._settings = settings
        self._path = path
        self._device = device
        self._loaded: tuple[int | None, Any, Any] | None = None
        self._projections: KeyProjections | None = None  # of the model that is loaded

    def run(self, cells: Sequence[Cell]) -> list[Result]:
        """Run a batch.

        Raises:
            ValueError: If a prompt cannot be steered or is too long for the model.
            UnusableModelError: If the model cannot be loaded as the settings say.

        """
        model, tokenizer = self._model(cells[0].adapter)
        kind = cells[0].kind
        if kind == ANSWER:
            return self._answer(model, tokenizer, cells)
        measurement = MEASUREMENTS[kind]
        marks = Marks.EMPHASIS if measurement.of_emphasis else Marks.GROUP
        prompts = [self._prompt(tokenizer, cell, marks) for cell in cells]
        end_tokens = [TASKS[cell.row.task].end_tokens for cell in cells]
        return measurement.read(model, tokenizer, prompts, end_tokens)

    def _answer(self, model: Any, tokenizer: Any, cells: Sequence[Cell]) -> list[Result]:
        decoding = cells[0].decoding
        if decoding is None:
            raise ValueError("decoding must be given for answers, got none")
        found = answer_rows(
            model,
            tokenizer,
            [self._prompt(tokenizer, cell) for cell in cells],
            seeds=[cell.random_seed for cell in cells],
            **self._stress(model, tokenizer, cells),
            max_new_tokens=decoding.max_new_tokens,
            temperature=decoding.temperature,
        )
        return [{"text": text, "new_tokens": tokens} for text, tokens in found]

    def _stress(self, model: Any, tokenizer: Any, cells: Sequence[Cell]) -> dict[str, Any]:
        """Return what the marks of a batch mean; its cells have one share, contrast and gain."""
        first = cells[0].condition
        if first.share:
            return {"min_share": first.share}
        if first.guidance:
            return {"guidance_scale": first.guidance, "multiplier": math.exp(first.delta)}
        if first.gain:
            if self._projections is None:
                self._projections = learned_projections(self._settings, model, tokenizer)
            return {"projections": self._projections, "gain": first.gain}
        layers, _ = table_size(model)
        return {
            "steering": [
                steering_of(cell.condition, layers, self._settings.heads) for cell in cells
            ]
        }

    def _prompt(self, tokenizer: Any, cell: Cell, marks: Marks | None = None) -> Any:
        return prompt_of(self._settings, tokenizer, cell, marks)

    def _model(self, adapter: int | None) -> tuple[Any, Any]:
        if self._loaded is None or self._loaded[0] != adapter:
            self._loaded = self._projections = None  # frees the memory of the one before
            try:
                if adapter is None:
                    model, tokenizer = model_of_run(self._settings, self._device)
                else:
                    model, tokenizer = load_adapter(
                        self._settings, self._path, adapter, device=self._device
                    )
            except (ValueError, torch.OutOfMemoryError) as error:
                raise UnusableModelError(str(error)) from error
            self._loaded = adapter, model, tokenizer
        return self._loaded[1], self._loaded[2]


def model_of_run(settings: RunSettings, device: str | None = None) -> tuple[Any, Any]:
    """Load the model of a run, enabled for steering, and its tokenizer."""
    if settings.model == EMBEDDED:
        dtype = "float32" if settings.dtype == "auto" else settings.dtype
        return integration.load(settings.model, dtype=dtype, device=device or "cpu")
    return integration.load(settings.model, dtype=settings.dtype, device=device)


def tokenizer_of_run(settings: RunSettings) -> Any:
    """Load the tokenizer of a run without its model."""
    return integration.load_tokenizer(settings.model)


def model_files(
    settings: RunSettings, on_note: Callable[[str], None] | None = None
) -> list[Path] | None:
    """Return the files of the model of a run; None if the model is named by a hub id.

    Args:
        settings: Settings of the run.
        on_note: Called with remarks, as by ``load``: a packaged model may have to be converted.

    Raises:
        OSError: If the model cannot be converted.
        MissingPackageError: If its package is not installed.

    """
    path = Path(resolved(settings.model, on_note))
    if path.is_dir():
        # How a packaged model was made is not what it is.
        made = (LICENCE, ORIGIN) if settings.model in PACKAGED else ()
        return sorted(file for file in path.iterdir() if file.is_file() and file.name not in made)
    return [path] if path.is_file() else None


class Marks(Enum):
    """How the marked part of a prompt is marked, if not with the Δ of its condition."""

    GROUP = "the group whose Influence is measured"
    EMPHASIS = "level 2, for whoever chooses what that means"


def prompt_of(settings: RunSettings, tokenizer: Any, cell: Cell, marks: Marks | None = None) -> Any:
    """Return what the model is asked: `marked_prompt`, as a chat where the settings say so."""
    text = marked_prompt(cell, marks)
    if settings.chat and getattr(tokenizer, "chat_template", None):
        return [{"role": "user", "content": text}]
    return text


def marked_prompt(cell: Cell, marks: Marks | None = None) -> MarkedText:
    """Return the prompt of a cell, with its parts marked.

    Args:
        cell: The cell.
        marks: How they are marked; None for the Δ of its condition.

    Raises:
        ValueError: If the row lacks a part that is to be marked.

    Example:
        >>> from guide_ext.studies.cells import Condition, Row
        >>> row = Row("a", "french", "", "Summarize in French", " <!-> is a tag.", 3, (0, 500))
        >>> marked_prompt(Cell(ANSWER, row, Condition(delta=2.0)))
        MarkedText(text='Summarize in French <!-> is a tag.',
        spans=(Span(start=0, end=19, level=None, delta=2.0, group=None),))

    """
    row, condition = cell.row, cell.condition
    marked = condition.style.apply(row.marked)
    places: list[tuple[int, int]] = []
    for part in condition.parts:
        places += (
            [(len(row.before), len(row.before) + len(marked))]
            if part == MARKED
            else _places(row, part, len(marked))
        )
    how: dict[str, Any] = {"delta": condition.delta}
    if marks is Marks.GROUP:
        how = {"group": DEFAULT_GROUP}
    elif (
        marks is Marks.EMPHASIS
        or condition.share
        or condition.guidance
        or condition.gain
        or condition.where is Where.PASTA
    ):
        how = {"level": 2}  # share, contrast, keys or steering say what a mark means
    spans = tuple(Span(start, end, **how) for start, end in sorted(places))
    return MarkedText(f"{row.before}{marked}{row.after}", spans)


def _places(row: Row, part: str, marked: int) -> list[tuple[int, int]]:
    """Return where the texts of a part stand; `marked` is the length of what stands between."""
    texts = row.texts_of(part)
    found = [
        (offset + match.start(), offset + match.end())
        for text in texts
        for offset, side in ((0, row.before), (len(row.before) + marked, row.after))
        for match in re.finditer(re.escape(text), side)
    ]
    if not all(texts) or not found:
        raise ValueError(f"row must have the part {part!r} in its prompt, got none in {row.id!r}")
    return found


def steering_of(
    condition: Condition, num_layers: int, heads: Sequence[tuple[int, int]] = ()
) -> Steering:
    """Return what the marks of a condition mean.

    Args:
        condition: The condition; its marks state their own Δ.
        num_layers: Attention layers of the model.
        heads: Layers and heads of the methods that act in chosen heads.

    Raises:
        ValueError: If the condition acts in chosen heads and there are none.

    Example:
        >>> steering_of(Condition(delta=2.0, where=Where.LATE), num_layers=6).layers
        (4, 5)

    """
    thirds = {Where.EARLY: 0, Where.MIDDLE: 1, Where.LATE: 2}
    if condition.where in thirds:
        part = thirds[condition.where]
        layers = range(round(num_layers * part / 3), round(num_layers * (part + 1) / 3))
        return Steering.guide(1.0, layers=layers)
    if condition.where is Where.EVERYWHERE:
        return Steering.guide(1.0)
    if not heads:
        raise ValueError(f"heads must be given for the condition {condition.name!r}, got none")
    by_layer = grouped_by_layer(heads)
    if condition.where is Where.PASTA:
        return Steering.pasta(math.exp(-condition.delta), by_layer)
    return Steering.guide(1.0, heads=by_layer)
