# SPDX-License-Identifier: MIT
"""What the shell completes: names and files that options take. No model, no torch is loaded."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from guide_ext.embedded import EMBEDDED

# guide_ext.integration, which converts it, would load torch; a test compares the two.
_PACKAGED = "smollm2"


def complete_data(incomplete: str) -> list[str]:
    """Complete what ``--data`` takes: names, files of texts, and folders on the way to them.

    Example:
        >>> complete_data("pyth")
        ['python-docs']

    """
    from guide_ext.studies.data.documents import HUB, PYTHON_DOCS, SUFFIXES

    return _offered(incomplete, (PYTHON_DOCS, HUB), SUFFIXES)


def complete_model(incomplete: str) -> list[str]:
    """Complete what ``--model`` takes: names, folders, and files of models.

    Example:
        >>> complete_model("embed"), complete_model("smol")
        (['embedded'], ['smollm2'])

    """
    return _offered(incomplete, (EMBEDDED, _PACKAGED), (".gguf",))


def _offered(incomplete: str, names: Collection[str], suffixes: Collection[str]) -> list[str]:
    """Return the names, folders and files with a suffix that begin with what was typed."""
    folder = incomplete[: incomplete.rfind("/") + 1]
    shows_hidden = incomplete[len(folder) :].startswith(".")
    found = [*names]
    try:
        for path in sorted(Path(folder or ".").iterdir()):
            if path.name.startswith(".") and not shows_hidden:
                continue
            if path.is_dir():
                found.append(f"{folder}{path.name}/")
            elif path.suffix in suffixes:
                found.append(f"{folder}{path.name}")
    except OSError:
        pass  # nothing to offer there
    return [name for name in found if name.startswith(incomplete)]
