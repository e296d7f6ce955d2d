# SPDX-License-Identifier: MIT
"""Looks for shapes at which the op is slower than SDPA: drawn at random, timed in turns.

    make bench-cliffs                                   2,000 shapes, one thread: 5 minutes or more
    make bench-cliffs CLIFFS="--shapes 200 --threads 2"
    make bench-cliffs CLIFFS=--masks                    dense biases and windows, too

Ours computes a bias and a channel of influence, SDPA neither; where query heads share keys and
queries are few, SDPA also has the heads of a group as rows of one head, and the faster way counts.
Every shape is verified before it is timed. Shapes whose ratio is below 1 are timed again at the
end, longer, in the order of their ratios: what was noise goes away. Writes cliffs.json and
cliffs.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cpu_attention import OURS, SDPA, SDPA_FOLDED
from facts import cpu_facts
from peers import Implementations, guide, sdpa
from problems import DTYPE_NAMES, Inputs, Problem
from sampling import Prepared, prepare

HEAD_DIMS = (32, 40, 64, 72, 80, 96, 112, 128, 160, 192, 256)
DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
MOST_FLOP = 2e9  # a tenth of a second where a core does 20 GFLOP/s
LONGEST = 16384
MOST_SCORES = 1 << 25
SAMPLES, AGAIN = 7, 25
SAMPLE_SECONDS = 2e-3  # a shorter call is repeated


def drawn(rng: random.Random, dtypes: tuple[torch.dtype, ...], has_masks: bool = False) -> Problem:
    """Draw a shape: lengths evenly on a scale of logarithms, all kinds of calls alike often."""
    while True:
        kind = rng.choice(("decode", "rows", "prefill", "chunk", "tiny"))
        seqlen_k = _length(rng, 1, 64 if kind == "tiny" else LONGEST)
        seqlen_q = {
            "decode": 1,
            "rows": _length(rng, 2, 63),
            "prefill": seqlen_k,
            "chunk": _length(rng, 64, 1024),
            "tiny": _length(rng, 1, 64),
        }[kind]
        is_causal = rng.random() < 0.5
        if is_causal and seqlen_q > seqlen_k:
            continue
        kv_heads, group = rng.choice((1, 2, 4, 8)), rng.choice((1, 1, 2, 4, 7))
        problem = Problem(
            rng.choice((1, 1, 2, 4)), kv_heads * group, kv_heads, seqlen_q, seqlen_k,
            rng.choice(HEAD_DIMS), is_causal, rng.choice(dtypes),
        )  # fmt: skip
        if has_masks:  # SDPA has both as a dense mask, so the scores are few
            extra = rng.choice(("none", "window", "dense", "both"))
            window = _length(rng, 1, LONGEST) - 1 if extra in ("window", "both") else -1
            problem = dataclasses.replace(
                problem, window_left=window, has_dense_bias=extra in ("dense", "both")
            )
        if has_masks and problem.scores > MOST_SCORES:
            continue
        if problem.flop <= MOST_FLOP and problem.key_value_bytes <= 1 << 28:
            return problem


def _length(rng: random.Random, least: int, most: int) -> int:
    return round(math.exp(rng.uniform(math.log(least), math.log(most))))


def implementations(problem: Problem) -> Implementations:
    """List ours and the ways of SDPA."""
    chosen: Implementations = {OURS: guide, SDPA: sdpa}
    if problem.is_decode and problem.group_size > 1:
        chosen[SDPA_FOLDED] = functools.partial(sdpa, folds_group=True)
    return chosen


def measured(problem: Problem, samples: int) -> dict[str, Any]:
    """Verify a shape and time it; `samples` of 0: verify it only."""
    torch.manual_seed(0)
    prepared = prepare(Inputs.draw(problem, torch.device("cpu")), implementations(problem))
    found: dict[str, Any] = {
        **dataclasses.asdict(problem),
        "dtype": DTYPE_NAMES[problem.dtype],
        "problem": str(problem),
        "failed": {name: prepared.left_out[name] for name in prepared.failed},
    }
    if not samples or prepared.failed:
        return found
    times = _in_turns(prepared, samples)
    ours = times.pop(OURS)
    peer = min(times, key=lambda name: statistics.median(times[name]))
    ratios = [other / own for other, own in zip(times[peer], ours, strict=True)]
    return found | {
        "ours_us": 1e6 * statistics.median(ours),
        "peer": peer,
        "peer_us": 1e6 * statistics.median(times[peer]),
        "ratio": statistics.median(ratios),
        "ratio_p90": sorted(ratios)[(9 * len(ratios)) // 10],
    }


def _in_turns(prepared: Prepared, samples: int) -> dict[str, list[float]]:
    repeats = {
        name: max(1, math.ceil(SAMPLE_SECONDS / seconds))
        for name, seconds in prepared.warm_seconds.items()
    }
    times: dict[str, list[float]] = {name: [] for name in prepared.calls}
    names = list(prepared.calls)
    for turn in range(samples):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(_shortest(prepared.calls[name], repeats[name]))
    return times


def _shortest(run: Callable[[], object], repeats: int) -> float:
    """Return the seconds of the shortest of some calls."""
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        found.append(time.perf_counter() - begin)
    return min(found)


def markdown(found: dict[str, Any], shown: int) -> str:
    """Return the worst shapes, and how ratios are spread."""
    timed = sorted((one for one in found["shapes"] if "ratio" in one), key=_ratio)
    wrong = [one for one in found["shapes"] if one["failed"]]
    lines = [f"- {name}: {fact}" for name, fact in found["facts"].items()]
    lines += ["", f"{len(found['shapes'])} shapes, {len(wrong)} wrong."]
    lines += [f"WRONG: {one['problem']}: {one['failed']}" for one in wrong]
    if not timed:
        return "\n".join([*lines, ""])
    ratios = [one["ratio"] for one in timed]
    below = sum(ratio < 1 for ratio in ratios)
    lines += [
        "SDPA's time over ours, which has a bias and a channel: median "
        f"{statistics.median(ratios):.2f}, below 1 in {below} of {len(timed)} shapes.",
        "",
        *_by_time(timed),
        "",
        "| shape | ours, µs | SDPA, µs | SDPA / ours |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {one['problem']} | {one['ours_us']:.0f} | {one['peer_us']:.0f} | {one['ratio']:.2f} |"
        for one in timed[:shown]
    ]
    return "\n".join([*lines, ""])


def _by_time(timed: list[dict[str, Any]]) -> list[str]:
    """Tell short calls, where the cost of calling shows, from long ones."""
    lines = ["| SDPA takes, µs | shapes | median | below 1 | worst |", "|---|---:|---:|---:|---:|"]
    for least, most in itertools.pairwise((0, 20, 50, 200, 1000, math.inf)):
        ratios = [_ratio(one) for one in timed if least <= one["peer_us"] < most]
        if not ratios:
            continue
        below = sum(ratio < 1 for ratio in ratios)
        name = f"{least} to {most}" if most < math.inf else f"{least} and more"
        lines.append(
            f"| {name} | {len(ratios)} | {statistics.median(ratios):.2f} | {below} "
            f"| {min(ratios):.2f} |"
        )
    return lines


def _ratio(one: dict[str, Any]) -> float:
    return float(one["ratio"])


def main() -> int:
    """Draw, verify and time shapes, write what was found, and print the worst."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--shapes", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--masks", action="store_true", help="dense biases and windows, too")
    parser.add_argument("--untimed", action="store_true", help="verify only")
    parser.add_argument("--worst", type=int, default=10, help="how many shapes to show")
    parser.add_argument("--out", type=Path, default=Path("bench_results"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rng = random.Random(options.seed)
    dtypes = tuple(DTYPES[name] for name in options.dtypes)
    problems = [drawn(rng, dtypes, options.masks) for _ in range(options.shapes)]
    facts = cpu_facts() | {"threads": str(options.threads), "seed": str(options.seed)}
    begin = time.monotonic()
    shapes = []
    with torch.inference_mode():
        for number, problem in enumerate(problems, 1):
            shapes.append(measured(problem, 0 if options.untimed else SAMPLES))
            if number % 50 == 0 or number == len(problems):
                seconds = time.monotonic() - begin
                sys.stderr.write(f"{number} of {len(problems)} shapes, {seconds:.0f} s\n")
        slow = [place for place, one in enumerate(shapes) if one.get("ratio", 1.0) < 1.0]
        for place in sorted(slow, key=lambda place: _ratio(shapes[place])):
            shapes[place] = measured(problems[place], AGAIN)
    found = {"facts": facts, "shapes": shapes}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "cliffs.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    text = markdown(found, options.worst)
    (options.out / "cliffs.md").write_text(text, "utf-8")
    sys.stdout.write(text)
    return 1 if any(one["failed"] for one in shapes) else 0


if __name__ == "__main__":
    sys.exit(main())
