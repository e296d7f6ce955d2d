# SPDX-License-Identifier: MIT
"""Which versions the ends are: read from ``pyproject.toml``, the one place that states them."""

from __future__ import annotations

from pathlib import Path

from cuda_gates.spec import tomllib
from packaging.requirements import Requirement

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
PACKAGES = ("torch", "transformers")


def ranges() -> dict[str, Requirement]:
    """Return what is claimed of each package."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    stated = [*project["dependencies"], *project["optional-dependencies"]["transformers"]]
    found = {Requirement(text).name: Requirement(text) for text in stated}
    return {name: found[name] for name in PACKAGES}


def oldest(requirement: Requirement) -> str:
    """Return what asks for the oldest release line of a range: ``>=2.10`` gives ``==2.10.*``.

    Raises:
        ValueError: If the range has no lower end, or several.

    """
    lower = [clause.version for clause in requirement.specifier if clause.operator == ">="]
    if len(lower) != 1:
        raise ValueError(f"pyproject.toml must state one >= for the range, got {requirement}")
    return f"{requirement.name}=={lower[0]}.*"


def ends() -> dict[str, list[str]]:
    """Return what pip is asked for, by the name of the end.

    The newest is what pip finds within the range: a release that nobody has tried yet is tried by
    raising the upper bound.
    """
    claimed = ranges()
    return {
        "oldest": [oldest(requirement) for requirement in claimed.values()],
        "newest": [str(requirement) for requirement in claimed.values()],
    }
