# SPDX-License-Identifier: MIT
"""``python -m cuda_emulator.ptx input.ptx output.cpp``, from the folder ``tests``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import PtxError, translate


def main() -> int:
    """Translate one file."""
    parser = argparse.ArgumentParser(description="Translate PTX to C++ for the CUDA emulator.")
    parser.add_argument("input", type=Path, help="PTX, as `nvcc -ptx` writes it")
    parser.add_argument("output", type=Path, help="C++ unit to write")
    arguments = parser.parse_args()
    try:
        unit = translate(arguments.input.read_text(encoding="utf-8"))
    except PtxError as error:
        sys.stderr.write(f"{arguments.input}: {error}\n")
        return 1
    arguments.output.write_text(unit, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
