# SPDX-License-Identifier: MIT
"""The fine-tuned models of the study ``sft``: what they train on, when they are saved, loading."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from guide_ext.embedded import model_path
from guide_ext.integration.lora import load_adapted
from guide_ext.marking.spans import escape
from guide_ext.studies.data.documents import read_documents
from guide_ext.studies.data.prompts import distinct, document_rows
from guide_ext.studies.plan import EMBEDDED, SFT, RunSettings
from guide_ext.studies.sft.data import Example, embedded_examples
from guide_ext.studies.sft.settings import SftSettings
from guide_ext.studies.sft.train import Step, planned_tokens, train
from guide_ext.studies.study import STUDIES, Row

FOLDER = "adapters"


class Adapters:
    """The fine-tuned models of a run.

    Args:
        settings: Of the run.
        path: Its folder.
        rows: Documents that are evaluated, and so are not trained on.
        tokenizer: Of the model.

    """

    def __init__(
        self, settings: RunSettings, path: Path, rows: Sequence[Row], tokenizer: Any
    ) -> None:
        """Gather the examples."""
        self._settings = settings
        self._folder = path / FOLDER
        self._sft = SftSettings.embedded() if settings.is_embedded else SftSettings.paper()
        self._examples = _examples(settings, rows, tokenizer, self._sft)

    def tokens(self) -> list[int]:
        """Return after how many trained tokens a model is saved."""
        return planned_tokens(_name(self._settings), self._examples, self._sft)

    def train(self, *, device: str | None, on_step: Callable[[Step], None] | None = None) -> None:
        """Train what is missing.

        Raises:
            NotImplementedError: If peft is not installed.

        """
        for _ in train(
            _name(self._settings), self._examples, self._sft, self._folder,
            device=_device(self._settings, device), dtype=_dtype(self._settings), on_step=on_step,
        ):  # fmt: skip
            pass


def load_adapter(
    settings: RunSettings, path: Path, tokens: int, *, device: str | None
) -> tuple[Any, Any]:
    """Load the model of a run as it was after so many trained tokens, enabled, and its tokenizer.

    Raises:
        FileNotFoundError: If it has not been trained.

    """
    return load_adapted(
        _name(settings),
        path / FOLDER / f"tokens-{tokens:010d}",
        dtype=_dtype(settings),
        device=_device(settings, device),
    )


def _examples(
    settings: RunSettings, rows: Sequence[Row], tokenizer: Any, sft: SftSettings
) -> list[Example]:
    if settings.data is None:
        return embedded_examples(tokenizer=tokenizer)
    # Of the study alone: what is trained on stays the same when studies of other tasks are added.
    evaluated = {row.document for row in rows if row.task in STUDIES[SFT].tasks}
    found = read_documents(
        settings.data, text_column=settings.text_column, reference_column=settings.reference_column
    )
    # A text that stands in the data twice is evaluated under the name of the first.
    documents = [document for document in distinct(found)[0] if document.id not in evaluated]
    rows, _ = document_rows(
        "french", documents, len(documents), settings.seed, lengths=settings.lengths,
        tokenizer=tokenizer,
    )  # fmt: skip
    if not rows:
        raise ValueError(
            "data must have texts with references besides those that are evaluated, for the study "
            f"sft to train on, got none in {settings.data!r}"
        )
    return [_example(settings, row, tokenizer) for row in rows]


def _example(settings: RunSettings, row: Row, tokenizer: Any) -> Example:
    text = escape(f"{row.before}{row.marked}{row.after}")
    if settings.chat and getattr(tokenizer, "chat_template", None):
        return Example(({"role": "user", "content": text},), row.answer)
    return Example(f"{text}\n\n", row.answer)


def _name(settings: RunSettings) -> str:
    return str(model_path()) if settings.model == EMBEDDED else settings.model


def _dtype(settings: RunSettings) -> str:
    return "float32" if settings.model == EMBEDDED and settings.dtype == "auto" else settings.dtype


def _device(settings: RunSettings, device: str | None) -> str | None:
    return device or ("cpu" if settings.model == EMBEDDED else None)
