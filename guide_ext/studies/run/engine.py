# SPDX-License-Identifier: MIT
"""What runs a batch of cells: a model of transformers with guide; another engine fits beside it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from guide_ext import integration
from guide_ext.embedded import model_path
from guide_ext.influence.forms import FORMS
from guide_ext.integration.influence.measure import norm_ratios
from guide_ext.integration.rows import answer_rows
from guide_ext.marking.spans import MarkedText, Span
from guide_ext.studies.plan import EMBEDDED, RunSettings
from guide_ext.studies.run.adapters import load_adapter
from guide_ext.studies.study import ANSWER, MEASURE, NORMS, RATIO_BINS, Cell

END_TOKENS = {"french": 10, "needle": 5, "json": 5}
"""Over how many tokens, from the end of the prompt, the authors average."""
_GROUP = "marked"

Result = dict[str, Any]


class UnusableModelError(Exception):
    """The model cannot be run at all: that is the fault of no cell, and ends a run."""


class Engine(Protocol):
    """Runs cells of one kind, with one decoding and one adapter."""

    def run(self, cells: Sequence[Cell]) -> list[Result]:
        """Return what each cell found, in order.

        Raises:
            ValueError: If a cell cannot be run; the others are tried without it.
            UnusableModelError: If none can.

        """


class TransformersEngine:
    """A model of transformers, loaded when the first batch comes.

    Args:
        settings: Of the run.
        path: Folder of the run, where fine-tuned models are.
        device: Where; None for a GPU if there is one.

    """

    def __init__(
        self,
        settings: RunSettings,
        path: Path,
        *,
        device: str | None = None,
    ) -> None:
        """Keep what is needed to load."""
        self._settings = settings
        self._path = path
        self._device = device
        self._loaded: tuple[int | None, Any, Any] | None = None

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
        prompts = [self._prompt(tokenizer, cell, measured=True) for cell in cells]
        inputs = integration.encode(model, tokenizer, prompts, delta=0.0)
        return {MEASURE: _influences, NORMS: _ratios}[kind](model, inputs, cells)

    def _answer(self, model: Any, tokenizer: Any, cells: Sequence[Cell]) -> list[Result]:
        decoding = cells[0].decoding
        if decoding is None:
            raise ValueError("decoding must be given for answers, got none")
        found = answer_rows(
            model,
            tokenizer,
            [self._prompt(tokenizer, cell) for cell in cells],
            seeds=[cell.random_seed for cell in cells],
            max_new_tokens=decoding.max_new_tokens,
            temperature=decoding.temperature,
        )
        return [{"text": text, "new_tokens": tokens} for text, tokens in found]

    def _prompt(self, tokenizer: Any, cell: Cell, *, measured: bool = False) -> Any:
        text = marked_prompt(cell, measured=measured)
        if self._settings.chat and getattr(tokenizer, "chat_template", None):
            return [{"role": "user", "content": text}]
        return text

    def _model(self, adapter: int | None) -> tuple[Any, Any]:
        if self._loaded is None or self._loaded[0] != adapter:
            self._loaded = None  # frees the memory of the one before
            try:
                if adapter is None:
                    model, tokenizer = load_model(self._settings, self._device)
                else:
                    model, tokenizer = load_adapter(
                        self._settings, self._path, adapter, device=self._device
                    )
            except (ValueError, torch.OutOfMemoryError) as error:
                raise UnusableModelError(str(error)) from error
            self._loaded = adapter, model, tokenizer
        return self._loaded[1], self._loaded[2]


def load_model(settings: RunSettings, device: str | None = None) -> tuple[Any, Any]:
    """Load the model of a run, enabled, and its tokenizer."""
    if settings.model == EMBEDDED:
        dtype = "float32" if settings.dtype == "auto" else settings.dtype
        return integration.load(str(model_path()), dtype=dtype, device=device or "cpu")
    return integration.load(settings.model, dtype=settings.dtype, device=device)


def load_tokenizer(settings: RunSettings) -> Any:
    """Load the tokenizer of a run alone."""
    return integration.load_tokenizer(
        str(model_path()) if settings.model == EMBEDDED else settings.model
    )


def model_folder(settings: RunSettings) -> Path | None:
    """Return the folder of the model of a run; None if it is a name of the hub."""
    path = model_path() if settings.model == EMBEDDED else Path(settings.model)
    return path if path.is_dir() else None


def marked_prompt(cell: Cell, *, measured: bool = False) -> MarkedText:
    """Write the prompt of a cell with its part marked for its Δ, or for measuring.

    Example:
        >>> from guide_ext.studies.study import Condition, Row
        >>> row = Row("a", "french", "", "Summarize in French", " <!-> is a tag.", 3, (0, 500))
        >>> marked_prompt(Cell(ANSWER, row, Condition(delta=2.0)))
        MarkedText(text='Summarize in French <!-> is a tag.',
        spans=(Span(start=0, end=19, level=None, delta=2.0, group=None),))

    """
    row = cell.row
    marked = cell.condition.style.apply(row.marked)
    start, end = len(row.before), len(row.before) + len(marked)
    span = (
        Span(start, end, group=_GROUP) if measured else Span(start, end, delta=cell.condition.delta)
    )
    return MarkedText(f"{row.before}{marked}{row.after}", (span,))


def _influences(model: Any, inputs: Any, cells: Sequence[Cell]) -> list[Result]:
    """Measure every form at the end of the prompt, for every level."""
    results: list[Result] = [{"levels": {}} for _ in cells]
    for form in FORMS:
        measured = integration.influence(model, inputs, form=form)
        for result, cell, values in zip(results, cells, measured.values[:, :, 0], strict=True):
            end = values[:, -END_TOKENS[cell.row.task] :].mean(1)
            result["levels"][form] = [_rounded(value) for value in end.tolist()]
    return results


def _ratios(model: Any, inputs: Any, cells: Sequence[Cell]) -> list[Result]:
    """Count the ratios of norms of every layer in bins of their logarithm."""
    found = norm_ratios(model, inputs).log10()
    results: list[Result] = []
    for row in found:
        bins = torch.floor(row * RATIO_BINS)
        layers = []
        for layer in bins:
            counts = Counter(int(value) for value in layer[layer.isfinite()].tolist())
            layers.append({str(value): count for value, count in sorted(counts.items())})
        results.append({"ratio_bins": layers})
    return results


def _rounded(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"Influence must be finite, got {value}: the model computes no numbers")
    return round(value, 7)
