# SPDX-License-Identifier: MIT
"""How fast a training step of attention is: forward and gradients, beside SDPA.

    make bench-training
    make bench-training SPEED="--dtypes bfloat16 --lengths 2048"

Ours computes a bias and a channel of influence, and the gradients of both beside those of query,
key and value; SDPA computes neither. The gradients are compared with float64 before anything is
timed. One thread and its own processor time: another process on the machine disturbs less. The two
take turns; a figure is the median, a ratio that of the medians.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

_ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_ROOT / "tests" / "helpers"), str(_ROOT / "benchmarks")]

from attention_cases import naive_attention, oracle  # noqa: E402
from memory import PeakMemory  # noqa: E402
from tolerance import ROUNDED_LSE_FACTOR, assert_accurate  # noqa: E402

from guide_ext.machine.facts import machine_facts  # noqa: E402
from guide_ext.op.attention import biased_attention, explain_dispatch  # noqa: E402

NAMES = ("query", "key", "value", "key_bias", "influence")
Step = tuple[Callable[[], Tensor], Callable[[Tensor], object]]  # forward; backward of what it gave


def draw(heads: int, length: int, head_dim: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Draw what a step starts from; a bias on an eighth of the keys."""
    operands = {name: torch.randn(1, heads, length, head_dim, dtype=dtype) for name in NAMES[:3]}
    key_bias = torch.zeros(1, 1, length)
    key_bias[..., length // 8 : length // 4] = 2.0
    inputs = {**operands, "key_bias": key_bias, "influence": torch.rand(1, 1, length)}
    return {name: tensor.requires_grad_() for name, tensor in inputs.items()}


def verify(length: int, head_dim: int, dtype: torch.dtype) -> None:
    """Fail if a gradient of one head is further from float64 than the tests allow."""
    inputs = draw(1, length, head_dim, dtype)
    options = {"is_causal": True}
    weights = [torch.randn(1, 1, length, head_dim), torch.randn(1, 1, 1, length)]

    def gradients(results: tuple[Tensor, ...], leaves: dict[str, Tensor]) -> tuple[Tensor, ...]:
        total = sum((r.double() * w).sum() for r, w in zip(results[:2], weights, strict=True))
        return torch.autograd.grad(total, list(leaves.values()))

    others = {"attn_bias": None, "sinks": None, "q_start": None}
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in inputs.items()}
    found = gradients(biased_attention(**inputs, **options), inputs)
    truths = gradients(oracle({**exact, **others}, options), exact)
    naives = gradients(naive_attention({**inputs, **others}, options, dtype), inputs)
    for name, *parts in zip(NAMES, found, truths, naives, strict=True):
        assert_accurate(*parts, f"gradient of {name}", factor=ROUNDED_LSE_FACTOR)


def steps(inputs: dict[str, Tensor]) -> dict[str, Step]:
    """Return the forward and the backward pass of both."""
    reached = torch.randn_like(inputs["query"])
    heads, length = reached.shape[1:3]
    flow = torch.randn(1, 1, heads, length)
    leaves = list(inputs.values())

    def ours() -> tuple[Tensor, ...]:
        return biased_attention(*leaves, is_causal=True)[:2]

    def sdpa() -> Tensor:
        return F.scaled_dot_product_attention(*leaves[:3], is_causal=True)

    return {
        "ours": (ours, lambda results: torch.autograd.grad(results, leaves, (reached, flow))),
        "sdpa": (sdpa, lambda out: torch.autograd.grad(out, leaves[:3], reached)),
    }


def measure(made: dict[str, Step], rounds: int) -> dict[str, dict[str, float]]:
    """Return medians of both passes in ms, and the memory of a step in MiB."""
    samples: dict[str, dict[str, list[float]]] = {n: {"forward": [], "both": []} for n in made}
    peaks: dict[str, float] = {}
    for turn in range(rounds + 1):
        for name, (forward, backward) in made.items():
            begin = time.thread_time()
            results = forward()
            middle = time.thread_time()
            backward(results)
            end = time.thread_time()
            if turn > 0:  # the first warms up
                samples[name]["forward"].append(1e3 * (middle - begin))
                samples[name]["both"].append(1e3 * (end - begin))
            del results
    for name, (forward, backward) in made.items():
        with PeakMemory(torch.device("cpu")) as memory:
            backward(forward())
        peaks[name] = (memory.peak_bytes or 0) / 2**20
    return {
        name: {part: statistics.median(times) for part, times in found.items()}
        | {"MiB": peaks[name]}
        for name, found in samples.items()
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 1024, 2048])
    parser.add_argument("--head-dims", nargs="+", type=int, default=[64, 128])
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    write = sys.stdout.write
    write("| causal | kernel | ours, ms | forward | SDPA, ms | ours / SDPA | MiB | SDPA, MiB |\n")
    write("|---|---|---:|---:|---:|---:|---:|---:|\n")
    for name, head_dim, length in itertools.product(given.dtypes, given.head_dims, given.lengths):
        dtype = getattr(torch, name)
        verify(length, head_dim, dtype)
        inputs = draw(given.heads, length, head_dim, dtype)
        served = explain_dispatch(**inputs, is_causal=True, backward=True).kernel
        found = measure(steps(inputs), given.rounds)
        ours, sdpa = found["ours"], found["sdpa"]
        write(
            f"| {name}, {given.heads} heads of {head_dim}, {length} | {served} "
            f"| {ours['both']:.1f} | {ours['forward']:.1f} | {sdpa['both']:.1f} "
            f"| {ours['both'] / sdpa['both']:.2f} | {ours['MiB']:.1f} | {sdpa['MiB']:.1f} |\n"
        )
        sys.stdout.flush()
    write(f"{machine_facts()}\n")


if __name__ == "__main__":
    main()
