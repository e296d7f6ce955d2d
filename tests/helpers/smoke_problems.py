# SPDX-License-Identifier: MIT
"""Problems of the benchmarks that are small enough for tests."""

import cpu_attention
import torch

CPU = torch.device("cpu")
CAUSAL = cpu_attention.SMOKE[1]
DECODE = cpu_attention.SMOKE[2]
DENSE, CHANNELS = cpu_attention.SMOKE[4:]
