# SPDX-License-Identifier: MIT
"""The command line, one file per command. It parses arguments; the layers below do the work."""

import sys

from guide_ext.support.extras import MissingPackageError, check_installed

__all__ = ["main"]


def main() -> None:
    """Run ``guide-ext``."""
    for package in ("typer", "rich"):
        try:
            check_installed(package, "for the command line")
        except MissingPackageError as error:
            sys.exit(f"guide-ext: {error}")
    from guide_ext.cli import app

    app.main()
