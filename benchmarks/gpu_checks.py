# SPDX-License-Identifier: MIT
"""What only a GPU can show of the op, besides its tests: graphs, streams, memory, dispatch.

    PYTHONPATH=.:tests/helpers:benchmarks python benchmarks/gpu_checks.py           every check
    PYTHONPATH=.:tests/helpers:benchmarks python benchmarks/gpu_checks.py --only small_calls

`small_calls` alone is for compute-sanitizer, `dispatch` for whoever must know that the kernels
serve, `large_call` for a profiler. Prints one JSON object; exits with 1 if a check failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable

import pytest
import torch
from attention_cases import TENSORS, Case, judge
from torch import Tensor

from guide_ext.op.attention import explain_dispatch

CASE = Case(batch=2, num_heads=4, num_kv_heads=2, seqlen_q=70, seqlen_k=150, head_dim=64,
            head_dim_v=64, dtype=torch.bfloat16, sinks=True)  # fmt: skip
# Each stresses another part: head sizes, ragged ends, gathered rows, dense bias, many channels.
SMALL = [
    CASE.but(seqlen_q=33, seqlen_k=65, head_dim=head_dim, head_dim_v=head_dim, options=options)
    for head_dim in (32, 64, 96, 128, 256)
    for options in ({"is_causal": True}, {"window_left": 20, "softcap": 5.0})
] + [
    CASE.but(head_dim=41, head_dim_v=17, channels=3),
    CASE.but(attn_bias=(1, 4), attn_bias_dtype=torch.float32, channels=10),
    CASE.but(seqlen_q=1, dtype=torch.float16, options={"is_causal": True}, q_start=(99, 20)),
    CASE.but(seqlen_k=0),
]


def run(tensors: dict[str, Tensor | None], case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Call the op."""
    result: tuple[Tensor, Tensor, Tensor] = torch.ops.guide.biased_attention(
        *(tensors[name] for name in TENSORS), **case.options
    )
    return result


def draw(case: Case) -> dict[str, Tensor | None]:
    """Draw the inputs of a case on the GPU."""
    torch.manual_seed(0)
    return case.tensors("cuda")


def small_calls() -> None:
    """Run and judge every small case."""
    for case in SMALL:
        tensors = draw(case)
        judge(tensors, case.options, run(tensors, case))


def large_call() -> None:
    """Run one prefill of a size that fills the GPU."""
    operands = (torch.randn(2, 32, 8192, 128, device="cuda").bfloat16() for _ in range(3))
    marks = torch.rand(2, 1, 8192, device="cuda")
    torch.ops.guide.biased_attention(*operands, marks, marks, is_causal=True)


def dispatch() -> None:
    """See that the kernels serve, rather than the fallback."""
    tensors = draw(CASE)
    found = explain_dispatch(**tensors)
    if found.kernel != "cuda/sm80":
        raise AssertionError(str(found))


def graph_with_new_contents() -> None:
    """Replay a captured call after its bias, positions and operands have changed."""
    case = CASE.but(q_start=(80, 60), options={"is_causal": True})
    tensors = draw(case)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run(tensors, case)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run(tensors, case)
    for step in range(3):
        for name in ("query", "key_bias", "influence"):
            tensors[name].normal_()
        tensors["q_start"].copy_(torch.tensor([60 + 30 * step, 10 * step]))
        graph.replay()
        judge(tensors, case.options, results)


def streams() -> None:
    """Run on two streams at once, neither of them the default one."""
    cases = [CASE, CASE.but(head_dim=128, head_dim_v=128)]
    pairs = [(draw(case), torch.cuda.Stream()) for case in cases]
    torch.cuda.synchronize()
    results = []
    for (tensors, stream), case in zip(pairs, cases, strict=True):
        with torch.cuda.stream(stream):
            results.append([run(tensors, case) for _ in range(20)][-1])
    torch.cuda.synchronize()
    for (tensors, _), case, result in zip(pairs, cases, results, strict=True):
        judge(tensors, case.options, result)


def equal_calls() -> None:
    """See equal bits from equal calls, and the same after the allocator has given memory back."""
    tensors = draw(CASE)
    first = [t.clone() for t in run(tensors, CASE)]
    for _ in range(20):
        torch.cuda.empty_cache()
        for before, after in zip(first, run(tensors, CASE), strict=True):
            if not before.equal(after):
                raise AssertionError("two equal calls gave different bits")


def other_device() -> None:
    """Run on a second GPU while the first is current, if there is one."""
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    tensors = {n: None if t is None else t.to("cuda:1") for n, t in draw(CASE).items()}
    judge(tensors, CASE.options, run(tensors, CASE))


def compiled() -> None:
    """Run under torch.compile without a graph break, and pass torch's own checks of an op."""
    tensors = draw(CASE)
    function = torch.compile(lambda *args: torch.ops.guide.biased_attention(*args), fullgraph=True)
    judge(tensors, CASE.options, function(*(tensors[name] for name in TENSORS)))
    torch.library.opcheck(
        torch.ops.guide.biased_attention.default, tuple(tensors[name] for name in TENSORS)
    )


def gradients() -> None:
    """Pull a gradient back through the kernel's results."""
    tensors = draw(CASE)
    for name in ("query", "key", "value", "key_bias", "influence"):
        tensors[name].requires_grad_()
    out, influence_out, _ = run(tensors, CASE)
    (out.float().sum() + influence_out.sum()).backward()
    if not all(tensors[n].grad.isfinite().all() for n in ("query", "key", "value", "key_bias")):
        raise AssertionError("a gradient is not finite")


CHECKS: dict[str, Callable[[], None]] = {
    check.__name__: check
    for check in (
        dispatch, small_calls, graph_with_new_contents, streams, equal_calls, other_device,
        compiled, gradients,
    )
}  # fmt: skip


def main() -> int:
    """Run the checks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=[*CHECKS, large_call.__name__])
    only = parser.parse_args().only
    every = CHECKS | {large_call.__name__: large_call}
    found = {}
    for name, check in {only: every[only]}.items() if only else CHECKS.items():
        try:
            check()
            torch.cuda.synchronize()
            found[name] = "passed"
        except pytest.skip.Exception as reason:
            found[name] = f"skipped: {reason}"
        except (Exception, pytest.fail.Exception) as error:
            traceback.print_exc()
            found[name] = f"failed: {type(error).__name__}: {error}"
    sys.stdout.write("\n" + json.dumps(found, indent=1) + "\n")
    return 1 if any(word.startswith("failed") for word in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
