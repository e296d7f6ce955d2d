# SPDX-License-Identifier: MIT
"""Load the model that comes with the package."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from guide_ext.embedded import model_path
from guide_ext.integration.loading import load


def load_embedded(
    path: str | os.PathLike[str] | None = None, *, dtype: str = "float32"
) -> tuple[Any, Any]:
    """Load the embedded model, enabled and on the CPU, and its tokenizer.

    Args:
        path: Folder of another model of the same kind, for example a retrained one; None for the
            model in the package.
        dtype: Dtype of the weights in memory, see `load`.

    Returns:
        The model, in evaluation mode, and the tokenizer.

    Raises:
        FileNotFoundError: If the folder holds no model.

    Example:
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> guide.is_enabled(model)
        True

    """
    folder = Path(path) if path is not None else model_path()
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"the embedded model must be in {folder}, got no config.json there; reinstall "
            "guide_ext, retrain the model, or pass the path of a saved one"
        )
    return load(str(folder), dtype=dtype, device="cpu")
