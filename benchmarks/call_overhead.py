# SPDX-License-Identifier: MIT
"""What a small call costs beside SDPA, in microseconds.

    make bench-overhead
    make bench-overhead SPEED="--keys 64 --rounds 200"

One query, one key and 8 heads of 64: nearly all of the time goes into getting from Python to the
kernel and back. `attention_with_share` stands beside the two calls of which it consists. Results
are compared with float64 before anything is timed. One thread and its own processor time: another
process on the machine disturbs less. All take turns; a figure is the least of the rounds, a ratio
the median of what each round gave.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_ROOT / "tests" / "helpers")]

from attention_cases import naive_attention, oracle  # noqa: E402
from tolerance import assert_accurate  # noqa: E402

from guide_ext.machine.facts import machine_facts  # noqa: E402
from guide_ext.op.attention import biased_attention, explain_dispatch  # noqa: E402
from guide_ext.op.share import attention_with_share  # noqa: E402

MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "grad, nothing to differentiate": torch.enable_grad,
}
SDPA, TWO_CALLS = "SDPA", "two calls"
# What is timed, and what it stands beside.
PEERS = {
    "biased_attention": SDPA,
    "with a bias and influence": SDPA,
    "torch.ops.guide.biased_attention": SDPA,
    "attention_with_share": TWO_CALLS,
}
MIN_SHARE = 0.9


def draw(heads: int, keys: int, head_dim: int) -> dict[str, Tensor]:
    """Draw one query and its keys; the first key has a bias, and influence."""
    rows = {"query": 1, "key": keys, "value": keys}
    operands = {name: torch.randn(1, heads, count, head_dim) for name, count in rows.items()}
    first = torch.zeros(1, 1, keys)
    first[..., 0] = 1.0
    return {**operands, "key_bias": 2.0 * first, "influence": first}


def calls(inputs: dict[str, Tensor]) -> dict[str, Callable[[], Any]]:
    """Return all that takes turns."""
    query, key, value, key_bias, influence = inputs.values()
    marked = influence[0] != 0
    masks = [torch.zeros_like(key_bias).masked_fill(one, -torch.inf) for one in (~marked, marked)]
    operator = torch.ops.guide.biased_attention

    def two_calls() -> object:
        return [biased_attention(query, key, value, mask) for mask in masks]

    return {
        SDPA: lambda: F.scaled_dot_product_attention(query, key, value),
        "biased_attention": lambda: biased_attention(query, key, value),
        "with a bias and influence": lambda: biased_attention(
            query, key, value, key_bias, influence
        ),
        "torch.ops.guide.biased_attention": lambda: operator(query, key, value),
        TWO_CALLS: two_calls,
        "attention_with_share": lambda: attention_with_share(query, key, value, marked, MIN_SHARE),
    }


def verify(inputs: dict[str, Tensor]) -> None:
    """Fail if a result is further from float64 than the tests allow."""
    made = calls(inputs)
    plain = {**inputs, "key_bias": None, "influence": None}
    shared = made["attention_with_share"]()
    # Of one query, [1, heads, 1] is a bias of each head.
    raised = {**plain, "key_bias": shared[3] * inputs["influence"]}
    found = {
        "biased_attention": (made["biased_attention"](), plain),
        "with a bias and influence": (made["with a bias and influence"](), inputs),
        "torch.ops.guide.biased_attention": (made["torch.ops.guide.biased_attention"](), plain),
        "attention_with_share": (shared, raised),
    }
    others = {"attn_bias": None, "sinks": None, "q_start": None}
    for name, (results, given) in found.items():
        exact = {k: None if v is None else v.double() for k, v in given.items()}
        truths = oracle({**exact, **others}, {})
        naives = naive_attention({**given, **others}, {}, torch.float32)
        for part, result, truth, naive in zip(
            ("out", "influence_out", "lse"), results, truths, naives, strict=False
        ):
            assert_accurate(result, truth, naive, f"{part} of {name}", at_least=1.0)


def measure(
    made: dict[str, Callable[[], Any]], rounds: int, repeats: int
) -> dict[str, list[float]]:
    """Return the microseconds of one call, of every round."""
    samples: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(rounds + 1):
        for name, call in made.items():
            begin = time.thread_time_ns()
            for _ in repeat(None, repeats):
                call()
            end = time.thread_time_ns()
            if turn > 0:  # the first warms up
                samples[name].append((end - begin) / repeats / 1e3)
    return samples


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=1)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=200)
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    inputs = draw(given.heads, given.keys, given.head_dim)
    verify(inputs)
    write = sys.stdout.write
    write("| mode | call | µs | beside | µs | ratio |\n|---|---|---:|---|---:|---:|\n")
    for mode, enter in MODES.items():
        with enter():
            samples = measure(calls(inputs), given.rounds, given.repeats)
        for name, peer in PEERS.items():
            ratio = statistics.median(
                ours / theirs for ours, theirs in zip(samples[name], samples[peer], strict=True)
            )
            write(
                f"| {mode} | {name} | {min(samples[name]):.1f} "
                f"| {peer} | {min(samples[peer]):.1f} | {ratio:.2f} |\n"
            )
            sys.stdout.flush()
    operands = [inputs[name] for name in ("query", "key", "value")]
    write(f"{explain_dispatch(*operands).kernel}, {machine_facts()}\n")


if __name__ == "__main__":
    main()
