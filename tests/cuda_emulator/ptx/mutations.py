# SPDX-License-Identifier: MIT
"""Planted errors: named changes of a PTX text, to see that the tests on the emulator notice them.

Most are mistakes that can be made in an inline-assembly string, so only PTX can show them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


class MutationError(ValueError):
    """A mutation that does not find what it changes."""


@dataclass(frozen=True)
class Mutation:
    """A change of text.

    Attributes:
        pattern: Regular expression of what is changed.
        replacement: What it becomes, with the groups of the pattern.
        meaning: The mistake, in words.
    """

    pattern: str
    replacement: str
    meaning: str


_REGISTER = r"(%\w+)"
_GAP = r"(\s*,\s*)"
_VECTOR = r"\{[^{}]*\}"

MUTATIONS = {
    "load_not_transposed": Mutation(
        r"(ldmatrix\.sync\.aligned\.m8n8\.x\d)\.trans\b", r"\1", "`.trans` dropped from an ldmatrix"
    ),
    "load_transposed": Mutation(
        r"(ldmatrix\.sync\.aligned\.m8n8\.x\d)(?!\.trans)",
        r"\1.trans",
        "`.trans` where none belongs",
    ),
    "load_registers_swapped": Mutation(
        rf"(ldmatrix\.\S+\s+\{{\s*%\w+\s*,\s*){_REGISTER}{_GAP}{_REGISTER}",
        r"\1\4\3\2",
        "registers 1 and 2 of an ldmatrix swapped",
    ),
    "mma_a_registers_swapped": Mutation(
        rf"(mma\.sync\.\S+\s+{_VECTOR}\s*,\s*\{{\s*%\w+\s*,\s*){_REGISTER}{_GAP}{_REGISTER}",
        r"\1\4\3\2",
        "registers 1 and 2 of A of an mma swapped",
    ),
    "mma_b_registers_swapped": Mutation(
        rf"(mma\.sync\.\S+\s+(?:{_VECTOR}\s*,\s*){{2}}\{{\s*){_REGISTER}{_GAP}{_REGISTER}",
        r"\1\4\3\2",
        "the registers of B of an mma swapped",
    ),
    "mma_sums_not_added": Mutation(
        rf"(mma\.sync\.\S+\s+(?:{_VECTOR}\s*,\s*){{3}})\{{[^{{}}]*\}}",
        r"\1{0f00000000, 0f00000000, 0f00000000, 0f00000000}",
        "an mma starts from zero instead of the sums so far",
    ),
    "copy_source_size_ignored": Mutation(
        r"(cp\.async\.c[ag]\.shared\S*\s+\[[^\]]*\]\s*,\s*\[[^\]]*\]\s*,\s*\d+)\s*,[^;]*;",
        r"\1;",
        "a cp.async copies all its bytes, whatever its source size",
    ),
    "copy_not_committed": Mutation(
        r"cp\.async\.commit_group\s*;", "", "a cp.async.commit_group is missing"
    ),
    "copy_wait_raised": Mutation(
        r"(cp\.async\.wait_group\s+)0\s*;",
        r"\g<1>1;",
        "a cp.async.wait_group leaves one group more",
    ),
    "copy_wait_removed": Mutation(
        r"cp\.async\.wait_group\s+\d+\s*;", "", "a cp.async.wait_group is missing"
    ),
    "barrier_removed": Mutation(
        r"\b(?:bar|barrier)(?:\.cta)?\.sync(?:\.aligned)?\s[^;]*;", "", "a barrier is missing"
    ),
    "warp_barrier_removed": Mutation(r"bar\.warp\.sync\s[^;]*;", "", "a __syncwarp is missing"),
    "pack_swapped": Mutation(
        rf"(cvt\.rn\.b?f16x2\.f32\s+%\w+\s*,\s*){_REGISTER}{_GAP}{_REGISTER}",
        r"\1\4\3\2",
        "the halves of a packed pair swapped",
    ),
    "nan_dropped": Mutation(r"max\.NaN\.f32", "max.f32", "a maximum that ignores NaN"),
    "shared_pair_swapped": Mutation(
        rf"(ld\.shared\.v2\.\w+\s+\{{\s*){_REGISTER}{_GAP}{_REGISTER}",
        r"\1\4\3\2",
        "the registers of a load of two neighbours swapped",
    ),
    "shared_chunk_swapped": Mutation(
        rf"(st\.shared\.v4\.\w+\s+\[[^\]]*\]\s*,\s*\{{\s*){_REGISTER}{_GAP}{_REGISTER}",
        r"\1\4\3\2",
        "the first registers of a store of 16 bytes swapped",
    ),
    "shuffle_lane_changed": Mutation(
        r"(shfl\.sync\.bfly\.b32\s+[^,]+,\s*[^,]+,\s*)[^,]+",
        r"\g<1>4",
        "a shuffle reads another lane",
    ),
}
"""By name."""


def mutate(ptx_text: str, name: str, *, which: int | str = 0, kernel: str = "") -> str:
    """Apply a named mutation.

    Args:
        ptx_text: A PTX text; its comments are removed.
        name: One of `MUTATIONS`.
        which: Number of the match from 0, negative from the last; ``"all"``, as a mistake in an
            inline-assembly string would; or ``"only"``, to demand that there is exactly one.
        kernel: Only matches in kernels whose name contains this.

    Raises:
        MutationError: If there is no such match.
    """
    mutation = MUTATIONS[name]
    # In comments nothing would happen; nvcc puts one before and after every inline assembly.
    text = re.sub(r"//[^\n]*", "", ptx_text)
    matches = [
        match
        for match in re.finditer(mutation.pattern, text)
        if kernel in _kernel_at(text, match.start())
    ]
    for match in reversed(_chosen(matches, name, which)):
        text = text[: match.start()] + match.expand(mutation.replacement) + text[match.end() :]
    return text


def _kernel_at(text: str, position: int) -> str:
    start = text.rfind(".entry", 0, position)
    found = re.match(r"\.entry\s+([\w$]+)", text[start:]) if start >= 0 else None
    return found[1] if found else ""


def _chosen(matches: list[re.Match[str]], name: str, which: int | str) -> list[re.Match[str]]:
    if which == "only" and len(matches) != 1:
        raise MutationError(f"{name}: {len(matches)} matches instead of one")
    if not matches:
        raise MutationError(f"{name}: nothing to change")
    if which in ("all", "only"):
        return matches
    if not isinstance(which, int):
        raise MutationError(f"{name}: which must be a number, 'all' or 'only', not {which!r}")
    if not -len(matches) <= which < len(matches):
        raise MutationError(f"{name}: there is no match {which} of {len(matches)}")
    return [matches[which]]
