# SPDX-License-Identifier: MIT
"""The machine and the build behind a measurement on a GPU."""

from __future__ import annotations

import sys
from typing import Any

import torch
from facts import ROOT, common_facts, output

from guide_ext.op import libraries

_SMI_FIELDS = (
    "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu,pstate,"
    "clocks_throttle_reasons.active"
)


def gpu_facts() -> dict[str, str]:
    """Name everything that a figure depends on; what cannot be found out is left out."""
    facts = {
        **common_facts(),
        "nvcc": output(_nvcc(), "--version").rpartition("release ")[2].partition("\n")[0],
        # Without the folder: results are published.
        "CUDA library": libraries.cuda_status().reason.replace(str(ROOT), "."),
    }
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        facts |= {
            "GPU": device.name,
            "compute capability": f"{device.major}.{device.minor}",
            "multiprocessors": str(device.multi_processor_count),
            "memory": f"{device.total_memory / 2**30:.0f} GiB",
            "CUDA of torch": str(torch.version.cuda),
            "cuDNN": str(torch.backends.cudnn.version()),
        }
        values = output("nvidia-smi", f"--query-gpu={_SMI_FIELDS}", "--format=csv,noheader")
        facts |= dict(zip(_SMI_FIELDS.split(","), values.split(", "), strict=False))
    return {name: value for name, value in facts.items() if value}


def ceilings(seconds: float = 1.0) -> dict[str, float]:
    """Measure what the machine can do at most: a large product and a large copy."""
    size = 8192
    left, right = (torch.randn(size, size, device="cuda").bfloat16() for _ in range(2))
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return {
        "matmul_tflops": 2 * size**3 / _best(lambda: left @ right, seconds) / 1e12,
        "copy_gbytes": 2 * source.numel() / _best(lambda: target.copy_(source), seconds) / 1e9,
    }


def _best(call: Any, seconds: float) -> float:
    """Return the shortest time of a call, in seconds."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times: list[float] = []
    while sum(times) < seconds:
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return min(times)


def _nvcc() -> str:
    """Return the nvcc that the build takes."""
    return output(sys.executable, str(ROOT / "cmake" / "find_nvcc.py")) or "nvcc"
