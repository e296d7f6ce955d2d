# SPDX-License-Identifier: MIT
"""The command line: one file a command; arguments alone, the work is done by the layers below."""

__all__ = ["main"]


def main() -> None:
    """Run ``guide-ext``."""
    from guide_ext.cli import app

    app.main()
