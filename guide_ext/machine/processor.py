# SPDX-License-Identifier: MIT
"""In which dtypes this processor multiplies matrices at full rate, and why not in others.

torch computes in bfloat16 and float16 on every processor, but without instructions for their
products it converts or emulates. Measured with torch 2.13 on one core, matrix products run at 104
GFLOP/s in float32, and at 222 in bfloat16 with AVX512_BF16. If oneDNN may not use that, bfloat16
falls to 38 with AVX-512 and to 19 with AVX2. float16 runs at 15 in all three cases.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

# Instructions that multiply in a dtype, by architecture, as torch and Linux name them.
_ByDtype = dict[torch.dtype, tuple[str, ...]]
_X86: _ByDtype = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16"),
}
_ARM: _ByDtype = {torch.bfloat16: ("bf16",), torch.float16: ("fp16_arith", "asimdhp")}
_INSTRUCTIONS = {"x86_64": _X86, "amd64": _X86, "aarch64": _ARM, "arm64": _ARM}
# torch multiplies by oneDNN, which obeys the first of these variables that is set; it ignores the
# case of the value.
# https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html
_CAPS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_WITHOUT_BF16 = (
    "sse41", "avx", "avx2", "avx2_vnni", "avx2_vnni_2", "avx512_core", "avx512_core_vnni"
)  # fmt: skip
_CAPPED = {torch.bfloat16: _WITHOUT_BF16, torch.float16: (*_WITHOUT_BF16, "avx512_core_bf16")}


def why_slow(
    dtype: torch.dtype,
    capabilities: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
) -> str | None:
    """Return why matrix products in a dtype are slower than in float32 on this processor.

    This is about torch's products. For attention by the compiled library see `explain_dispatch`.

    Args:
        dtype: The dtype of the weights.
        capabilities: What a processor can do, as `this_processor` returns it; None for this one.
        environment: Environment variables; None for those of this process.

    Returns:
        The reason; None if they are at least as fast, or nothing is known of the architecture.

    Example:
        >>> why_slow(torch.float16, {"architecture": "x86_64", "avx512_bf16": True}, {})
        'this processor has no instructions for float16 products (avx512_fp16 or amx_fp16)'
        >>> why_slow(torch.float32) is None
        True

    """
    found: Mapping[str, object] = this_processor() if capabilities is None else capabilities
    variables = os.environ if environment is None else environment
    needed = _INSTRUCTIONS.get(str(found.get("architecture", "")).lower(), {}).get(dtype)
    if needed is None:
        return None
    name = str(dtype).removeprefix("torch.")
    if not any(found.get(instruction) for instruction in needed):
        instructions = " or ".join(needed)
        return f"this processor has no instructions for {name} products ({instructions})"
    for variable in _CAPS:
        cap = variables.get(variable)
        if cap:
            is_slow = cap.lower() in _CAPPED[dtype]
            reason = f"{variable}={cap} keeps torch from this processor's {name} products"
            return reason if is_slow else None
    return None


def this_processor() -> dict[str, object]:
    """Return the ``"architecture"`` of this processor, and a flag per kind of instruction.

    Example:
        >>> bool(this_processor()["architecture"])
        True

    """
    if hasattr(torch.cpu, "get_capabilities"):
        return dict(torch.cpu.get_capabilities())
    return _from_linux()  # torch 2.10


def _from_linux(path: str = "/proc/cpuinfo") -> dict[str, object]:
    """Read the flags of the first processor; Linux gives them the same names as torch."""
    try:
        with open(path, encoding="utf-8") as lines:
            flags = [line for line in lines if line.startswith(("flags", "Features"))]
    except OSError:
        flags = []
    names = flags[0].partition(":")[2].split() if flags else []
    return {"architecture": os.uname().machine, **dict.fromkeys(names, True)}
