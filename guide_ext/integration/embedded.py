# SPDX-License-Identifier: MIT
"""Load the model that comes with the package."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from guide_ext.integration.enable import enable

_FOLDER = ("experiments", "embedded", "model")


def load_embedded(
    path: str | os.PathLike[str] | None = None, *, dtype: torch.dtype = torch.float32
) -> tuple[Any, Any]:
    """Load the embedded model, enabled and in evaluation mode, and its tokenizer.

    Args:
        path: Folder of another model of the same kind, for example one that was retrained; None for
            the one in the package.
        dtype: Of the weights in memory.

    Returns:
        The model and the tokenizer.

    Raises:
        FileNotFoundError: If the folder holds no model.

    """
    folder = Path(path) if path is not None else Path(str(files("guide_ext").joinpath(*_FOLDER)))
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"the embedded model must be in {folder}, got no config.json there; reinstall "
            "guide_ext, retrain it with `python -m guide_ext.experiments.embedded.train`, or pass "
            "the path of a saved model"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    return enable(model.eval()), tokenizer
