# SPDX-License-Identifier: MIT
"""Facts about the machine, which every saved measurement carries."""

from __future__ import annotations

import os
import platform

import torch


def machine_facts() -> dict[str, str]:
    """Return processor, cores, threads, system and GPUs, by name.

    Example:
        >>> sorted(machine_facts())
        ['cores', 'gpu', 'processor', 'system', 'threads']

    """
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "processor": _processor_name(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.machine()}",
        "gpu": ", ".join(gpus) or "none",
    }


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
            names = [line.split(":", 1)[1].strip() for line in cpuinfo if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or "unknown"
