# SPDX-License-Identifier: MIT
"""The fine-tuned models of a run: their examples, their training, loading them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from guide_ext.embedded import EMBEDDED
from guide_ext.integration.lora import load_adapted
from guide_ext.marking.spans import escape
from guide_ext.studies.cells import Row
from guide_ext.studies.data.documents import read_documents
from guide_ext.studies.data.rows import distinct, document_rows
from guide_ext.studies.plan import RunSettings, training_study
from guide_ext.studies.training.data import Example, embedded_examples
from guide_ext.studies.training.settings import SftSettings
from guide_ext.studies.training.train import Step, planned_tokens, train

FOLDER = "adapters"


class Adapters:
    """The fine-tuned models of a run.

    Args:
        settings: Settings of the run. One of its studies fine-tunes.
        path: Folder of the run.
        rows: The rows of the run; documents that the study evaluates are not trained on.
        tokenizer: Tokenizer of the model.

    """

    def __init__(
        self, settings: RunSettings, path: Path, rows: Sequence[Row], tokenizer: Any
    ) -> None:
        self._settings = settings
        self._folder = path / FOLDER
        self._sft = SftSettings.embedded() if settings.is_embedded else SftSettings.paper()
        self._examples = _examples(settings, rows, tokenizer, self._sft)

    def tokens(self) -> list[int]:
        """Return the numbers of trained tokens after which a model is saved."""
        return planned_tokens(self._settings.model, self._examples, self._sft)

    def train(self, *, device: str | None, on_step: Callable[[Step], None] | None = None) -> None:
        """Train the models that are missing.

        Args:
            device: Device to train on; None for a GPU if there is one.
            on_step: Called after every step.

        Raises:
            NotImplementedError: If peft is not installed.

        """
        for _ in train(
            self._settings.model, self._examples, self._sft, self._folder,
            device=_device(self._settings, device), dtype=_dtype(self._settings), on_step=on_step,
        ):  # fmt: skip
            pass


def load_adapter(
    settings: RunSettings, path: Path, tokens: int, *, device: str | None
) -> tuple[Any, Any]:
    """Load a fine-tuned model of a run, enabled for steering, and its tokenizer.

    Args:
        settings: Settings of the run.
        path: Folder of the run.
        tokens: Number of tokens that it was trained on.
        device: Device of the model; None for a GPU if there is one.

    Raises:
        FileNotFoundError: If it has not been trained.

    """
    return load_adapted(
        settings.model,
        path / FOLDER / f"tokens-{tokens:010d}",
        dtype=_dtype(settings),
        device=_device(settings, device),
    )


def _examples(
    settings: RunSettings, rows: Sequence[Row], tokenizer: Any, sft: SftSettings
) -> list[Example]:
    study = training_study(settings)
    if study is None:
        raise ValueError(
            f"studies must have one that fine-tunes, got {', '.join(settings.studies)}"
        )
    task = study.tasks[0]
    if settings.data is None:
        return embedded_examples(task=task.case_kind, tokenizer=tokenizer)
    # Only documents of this study: the examples stay the same when a run gets more studies.
    own = {one.name for one in study.tasks}
    evaluated = {row.document for row in rows if row.task in own}
    found = read_documents(
        settings.data, text_column=settings.text_column, reference_column=settings.reference_column
    )
    # `distinct` keeps the first of equal texts, and so did the evaluation.
    documents = [document for document in distinct(found)[0] if document.id not in evaluated]
    rows, _ = document_rows(
        task, documents, len(documents), settings.seed, lengths=settings.lengths,
        tokenizer=tokenizer,
    )  # fmt: skip
    if not rows:
        raise ValueError(
            "data must have texts with references besides those that are evaluated, for the study "
            f"{study.name} to train on, got none in {settings.data!r}"
        )
    return [_example(settings, row, tokenizer) for row in rows]


def _example(settings: RunSettings, row: Row, tokenizer: Any) -> Example:
    text = escape(f"{row.before}{row.marked}{row.after}")
    if settings.chat and getattr(tokenizer, "chat_template", None):
        return Example(({"role": "user", "content": text},), row.answer)
    return Example(f"{text}\n\n", row.answer)


def _dtype(settings: RunSettings) -> str:
    return "float32" if settings.model == EMBEDDED and settings.dtype == "auto" else settings.dtype


def _device(settings: RunSettings, device: str | None) -> str | None:
    return device or ("cpu" if settings.model == EMBEDDED else None)
