# SPDX-License-Identifier: MIT
"""Print what is wrong with the built library, and write docs/cuda_kernels.md.

``python -m tests.cuda_gates [--write] [LIBRARY]``, from the root of the repository. The exit status
is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .disassembly import read_kernels
from .gate import check_library
from .spec import read_limits
from .table import DOCUMENT, write_page
from .tiles import read_tiles
from .tools import LIBRARY


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.cuda_gates", description=__doc__)
    parser.add_argument("library", type=Path, nargs="?", default=LIBRARY)
    parser.add_argument("--write", action="store_true", help=f"write docs/{DOCUMENT.name}")
    arguments = parser.parse_args()
    kernels = read_kernels(arguments.library)
    tiles = read_tiles()
    page = write_page(kernels, tiles)
    if arguments.write:
        DOCUMENT.write_text(page)
    else:
        sys.stdout.write(page)
    violations = check_library(kernels, tiles, read_limits())
    sys.stderr.write("".join(f"{line}\n" for line in violations))
    return int(bool(violations))


if __name__ == "__main__":
    sys.exit(main())
