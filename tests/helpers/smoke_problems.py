# SPDX-License-Identifier: MIT
"""Problems of the benchmarks that are small enough for tests."""

import cpu_attention
import torch

CPU = torch.device("cpu")
CAUSAL = cpu_attention.SMOKE[1]
DECODE = cpu_attention.SMOKE[2]
DENSE, CHANNELS = cpu_attention.SMOKE[4:]


def left_out(problem):
    """Return what cannot take a problem, or is not run by tests."""
    names = {cpu_attention.FLEX}
    if problem.window_left >= 0:
        names.add(cpu_attention.EAGER)
    if problem.channels > 1:
        names |= {cpu_attention.COLUMNS, cpu_attention.EAGER}
    return names
