# SPDX-License-Identifier: MIT
"""PTX to C++ for the CUDA emulator.

The PTX that nvcc emitted becomes C++ that runs on the emulator's runtime, so that the inline
assembly of ``ptx.cuh`` is executed as written: strings, order of operands, constraints. Whatever
cannot be translated faithfully is a `PtxError`; nothing is guessed or ignored.

Example:
    >>> from cuda_emulator.ptx import translate
    >>> unit = translate(".version 9.0 .target sm_80 .address_size 64 .entry nothing() { ret; }")
    >>> 'extern "C" void nothing(const void* params)' in unit
    True
"""

from __future__ import annotations

from .emit import emit
from .mutations import MUTATIONS, Mutation, MutationError, mutate
from .parse import parse
from .syntax import PtxError

__all__ = ["MUTATIONS", "Mutation", "MutationError", "PtxError", "mutate", "translate"]


def translate(ptx_text: str) -> str:
    """Return a C++ unit with a function ``NAME(const void* params)`` for each kernel of a PTX text.

    The unit needs ``cuda_emulator.h`` alone, and must be compiled with ``-ffp-contract=off``.
    ``params`` points to the parameters as a launch lays them out: in order, each aligned.

    Raises:
        PtxError: If there is anything that is not understood; it names the line.
    """
    return emit(parse(ptx_text))
