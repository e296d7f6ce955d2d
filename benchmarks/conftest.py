# SPDX-License-Identifier: MIT
"""What every benchmark needs: seeds, and the machine beside the numbers."""

from typing import Any

import pytest
import torch

from guide_ext import _libraries
from guide_ext.experiments.machine import machine_facts


@pytest.fixture(autouse=True)
def seeds() -> None:
    torch.manual_seed(0)


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    status = _libraries.library_status()
    machine_info |= machine_facts()
    machine_info["torch"] = torch.__version__
    machine_info["guide_ext"] = status.instruction_set or status.reason
