# SPDX-License-Identifier: MIT
"""How much memory a piece of code takes at its peak, on a GPU or of this process."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc(5): sets VmHWM to VmRSS


class PeakMemory:
    """Memory taken between `with` and its end, besides what was there before.

    Attributes:
        peak_bytes: How much; None where that cannot be measured. Of a process, to about 1 MiB.

    """

    peak_bytes: int | None = None

    def __init__(self, device: torch.device) -> None:
        """Measure a device's allocator, or the resident memory of this process."""
        self._is_cuda = device.type == "cuda"
        self._before: int | None = None

    def __enter__(self) -> PeakMemory:
        """Begin."""
        if self._is_cuda:
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        elif _CLEAR.exists():
            _return_free_memory()
            try:
                _CLEAR.write_text(_RESET_PEAK)
            except OSError:  # some containers forbid it
                return self
            self._before = _status_bytes("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        if self._before is None:
            return
        if self._is_cuda:
            torch.cuda.synchronize()
            self.peak_bytes = torch.cuda.max_memory_allocated() - self._before
        else:
            self.peak_bytes = max(0, _status_bytes("VmHWM") - self._before)


def _status_bytes(field: str) -> int:
    found = re.search(rf"{field}:\s*(\d+) kB", _STATUS.read_text())
    if found is None:
        raise RuntimeError(f"{_STATUS} has no {field}")
    return int(found[1]) * 1024


def _return_free_memory() -> None:
    """Give freed memory back: what a call takes from the heap's reserve would not be seen."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc alone has it
        trim(0)
