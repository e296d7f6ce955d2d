# SPDX-License-Identifier: MIT
"""What one run of the benchmarks gathers, and how much time it has."""

from __future__ import annotations

import collections
import time
from typing import Any

import ceilings
import facts
import pytest


class Run:
    """What one run of pytest has measured so far, and how much time it has left.

    Attributes:
        records: What the benchmarks give, by their kind.
        left: Benchmarks that have not begun.

    """

    def __init__(self, seconds: float, most_rounds: int) -> None:
        """Begin."""
        self.most_rounds = most_rounds
        self.records: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
        self.left = 0
        self.begin = time.monotonic()
        self.machine = facts.cpu_facts()
        self._end = self.begin + seconds
        self._products: dict[int, ceilings.Ceilings] = {}
        self.no_ceilings = ""

    def share_of_time(self) -> float:
        """Return the seconds that one more benchmark may take; skip it if there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            pytest.skip("out of time: --seconds")
        return left / max(1, self.left)

    def products(self, threads: int) -> ceilings.Ceilings:
        """Measure torch.mm, once for a number of threads."""
        if threads not in self._products:
            self._products[threads] = ceilings.products()
        return self._products[threads]

    def ceilings(self, threads: int) -> ceilings.Ceilings:
        """Measure the machine now."""
        try:
            return ceilings.native(threads)
        except ceilings.NoCompilerError as reason:
            self.no_ceilings = str(reason)
            return {}

    def result(self, kind: str) -> dict[str, Any]:
        """Gather what goes to a file."""
        return {
            "kind": kind,
            "machine": self.machine | ({"peak": self.no_ceilings} if self.no_ceilings else {}),
            "seconds": time.monotonic() - self.begin,
            "products": {str(threads): found for threads, found in self._products.items()},
            "records": self.records[kind],
        }
