# SPDX-License-Identifier: MIT
"""The embedded model: a tiny bilingual Mistral, trained on a constructed world and shipped here."""

from __future__ import annotations

from pathlib import Path, PurePath

__all__ = ["EMBEDDED", "is_embedded", "model_path"]

EMBEDDED = "embedded"
"""The name by which commands and settings call this model."""
_FOLDERS = (("guide_ext", "embedded", "model"), ("experiments", "embedded", "model"))


def model_path() -> Path:
    """Return the folder of the shipped model, ready for ``from_pretrained``.

    Returns:
        The folder with ``config.json``, ``model.safetensors`` and the tokenizer.

    Example:
        >>> model_path().name
        'model'

    """
    return Path(__file__).resolve().parent / "model"


def is_embedded(name: str) -> bool:
    """Tell whether a name of a model means this one, in this installation or in another.

    Runs that were saved by an earlier version have the folder that the model lay in then.

    Args:
        name: A folder, a hub id or ``"embedded"``.

    Example:
        >>> is_embedded("embedded"), is_embedded(str(model_path())), is_embedded("gpt2")
        (True, True, False)
        >>> is_embedded("/elsewhere/guide_ext/experiments/embedded/model")
        True

    """
    return name == EMBEDDED or PurePath(name).parts[-3:] in _FOLDERS
