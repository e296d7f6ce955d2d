# SPDX-License-Identifier: MIT
"""What Prometheus is told. No text of any request is among it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_ROWS = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Counts of one server.

    Example:
        >>> metrics = Metrics()
        >>> metrics.waiting(3)
        >>> b"guide_queue_requests 3.0" in metrics.text()
        True

    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        where = self._registry
        self.requests = Counter(
            "guide_requests", "Requests by route and status.", ("route", "status"), registry=where
        )
        self.steered = Counter("guide_steered_requests", "Requests with a bias.", registry=where)
        self.prompt_tokens = Counter("guide_prompt_tokens", "Tokens of prompts.", registry=where)
        self.answer_tokens = Counter("guide_answer_tokens", "Tokens of answers.", registry=where)
        self.reused_tokens = Counter(
            "guide_reused_tokens",
            "Prompt tokens that were kept from before.",
            registry=where,
        )
        self.first_token = Histogram(
            "guide_first_token_seconds", "Until the first of an answer is known.", buckets=_SECONDS,
            registry=where,
        )  # fmt: skip
        self._rows = Histogram(
            "guide_batch_rows", "Answers that begin together.", buckets=_ROWS, registry=where
        )
        self._queue = Gauge("guide_queue_requests", "Requests that wait.", registry=where)

    def waiting(self, jobs: int) -> None:
        """Take the number of requests that wait."""
        self._queue.set(jobs)

    def batch(self, rows: int) -> None:
        """Take the number of answers that begin together."""
        self._rows.observe(rows)

    def reused(self, tokens: int) -> None:
        """Take the number of tokens that need not be computed again."""
        self.reused_tokens.inc(tokens)

    def text(self) -> bytes:
        """Return all counts in Prometheus' text format."""
        found: bytes = generate_latest(self._registry)
        return found
