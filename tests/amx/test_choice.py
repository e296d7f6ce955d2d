# SPDX-License-Identifier: MIT
"""AMX is used on request alone, and after a check: the choice on a machine of the model."""

import ctypes
import json
import os
import subprocess
import sys

import emulated_amx
import pytest
import torch
from emulated_op import CannotBuildError

from guide_ext.machine.doctor import diagnose
from guide_ext.op import libraries
from guide_ext.op.attention import explain_dispatch


@pytest.fixture(scope="module")
def library():
    try:
        return emulated_amx.build()
    except CannotBuildError as reason:
        pytest.skip(str(reason))


# A choice is made once and for all, but only after it has worked.
CHILD = """
import ctypes, json, pathlib, sys
import torch
from guide_ext.op import libraries, registration
libraries.LIBRARY_PATH = pathlib.Path(sys.argv[1])
library = ctypes.CDLL(sys.argv[1])
found = []
for has_amx, refusal, swaps_pairs in json.loads(sys.argv[2]):
    library.amx_emulator_set_machine(has_amx, refusal.encode(), swaps_pairs)
    status = libraries.library_status()
    found.append((status.instruction_set, status.reason))
print(json.dumps(found))
"""
NONE, WHOLE = (0, "", 0), (1, "", 0)
REFUSED, SWAPPED = (1, "Operation not permitted", 0), (1, "", 1)


def _ask(library, machines, forced):
    environment = os.environ | {"GUIDE_EXT_CPU_ISA": forced, "PYTHONPATH": str(emulated_amx.ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(library), json.dumps(machines)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_request_is_obeyed_where_the_machine_passes_the_check(library):
    none, refused, swapped, whole, later = _ask(
        library, [NONE, REFUSED, SWAPPED, WHOLE, NONE], "amx"
    )
    assert none[0] is refused[0] is swapped[0] is None
    assert "GUIDE_EXT_CPU_ISA=amx names no instruction set that was built and that this" in none[1]
    assert (
        "GUIDE_EXT_CPU_ISA=amx cannot be used here: the system refuses the tile registers "
        "(Operation not permitted): every call on the CPU raises; unset it"
    ) in refused[1]
    assert "cannot be used here: its results are not those of portable: lse[0] is " in swapped[1]
    assert " for 64 queries and 256 keys of 64 and 64 dimensions: every call" in swapped[1]
    assert whole == later == ["amx", f"loaded from {library}"]


def test_another_request_does_not_touch_the_tiles(library):
    assert _ask(library, [SWAPPED], "portable") == [["portable", f"loaded from {library}"]]


@pytest.fixture
def machine(library, monkeypatch):
    """Let this process ask the emulated library, and choose its machine."""
    monkeypatch.delenv("GUIDE_EXT_CPU_ISA", raising=False)
    monkeypatch.setattr(libraries, "LIBRARY_PATH", library)
    set_machine = ctypes.CDLL(str(library)).amx_emulator_set_machine
    yield lambda has_amx, refusal, swaps: set_machine(has_amx, refusal.encode(), swaps)
    set_machine(1, b"", 0)


HINT = (
    "this processor has amx, whose kernel nobody has measured yet: GUIDE_EXT_CPU_ISA=amx checks "
    "its results and uses it"
)


@pytest.mark.parametrize(
    ("machine_of", "dtype", "queries", "reasons"),
    [
        (WHOLE, torch.bfloat16, 49, (HINT,)),
        (REFUSED, torch.bfloat16, 49, (HINT,)),  # nothing is asked of the system
        (NONE, torch.bfloat16, 49, ()),
        (WHOLE, torch.bfloat16, 48, ()),  # decoding has no tiles
        (WHOLE, torch.float32, 49, ()),
        (WHOLE, torch.float16, 49, ()),
    ],
)
def test_it_is_never_chosen_unasked_but_shown(machine, machine_of, dtype, queries, reasons):
    machine(*machine_of)
    operand = torch.zeros(1, 1, queries, 8, dtype=dtype)
    dispatch = explain_dispatch(operand, operand, operand)
    assert (dispatch.kernel, dispatch.reasons) == ("cpu/portable", reasons)


def test_the_doctor_says_how_to_switch_it_on(machine):
    machine(*WHOLE)
    (found,) = [choice for choice in diagnose().kernels if HINT in choice.reasons]
    assert (found.device, found.dtype, found.kernel) == ("cpu", "bfloat16", "cpu/portable")
