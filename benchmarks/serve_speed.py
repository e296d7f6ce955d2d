# SPDX-License-Identifier: MIT
"""How fast the server answers: one request beside `generate`, sixteen at once beside one by one.

    make bench-serve

Answers are compared before anything is timed. Ratios are medians over rounds; those in processor
time, client included, also hold on a machine that does something else.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests" / "helpers")]

from serving import running  # noqa: E402

import guide_ext.integration as guide  # noqa: E402
from guide_ext.machine.facts import machine_facts  # noqa: E402
from guide_ext.serve.settings import Settings  # noqa: E402

TEXT = "<!!->Summarize in French<-!!>\nThe thief paints the hammer in the museum."


def seconds(function):
    """Call a function, and return how long it took and what it returned."""
    begin = time.perf_counter()
    found = function()
    return time.perf_counter() - begin, found


def main() -> None:
    """Print both ratios, each with its spread."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--tokens", type=int, default=200, help="tokens of an answer")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compile", type=int, default=0, help="as of `guide-ext serve`")
    given = parser.parse_args()
    model, tokenizer = guide.load(given.model)
    model.generation_config.eos_token_id = None  # so that every answer has as many tokens
    chat = [{"role": "user", "content": TEXT}]
    body = {
        "model": given.model, "messages": chat, "temperature": 0, "max_tokens": given.tokens,
        "guide": {"delta": 2.0},
    }  # fmt: skip
    inputs = guide.encode(model, tokenizer, [chat], delta=2.0)
    begin = inputs["input_ids"].shape[1]

    def generate() -> str:
        with torch.inference_mode():
            ids = model.generate(
                **inputs, max_new_tokens=given.tokens, do_sample=False, pad_token_id=0
            )
        text: str = tokenizer.decode(ids[0, begin:], skip_special_tokens=True)
        return text

    with (
        running(
            model, tokenizer, Settings(given.model, compile=given.compile), seconds=1800
        ) as server,
        server.http() as http,
        ThreadPoolExecutor(given.clients) as pool,
    ):

        def ask(stream: bool = False) -> str:
            answer: httpx.Response = http.post(
                "/v1/chat/completions", json={**body, "stream": stream}
            )
            answer.raise_for_status()
            if stream:
                return answer.text
            text: str = answer.json()["choices"][0]["message"]["content"]
            return text

        def together() -> list[str]:
            return list(pool.map(lambda _: ask(), range(given.clients)))

        wanted = generate()
        if ask() != wanted or set(together()) != {wanted}:
            raise SystemExit("the answers differ; nothing was timed")
        times: dict[str, list[float]] = {}
        busy: dict[str, list[float]] = {}
        ways = {
            "generate": generate,
            "one request": ask,
            "one stream": lambda: ask(stream=True),
            "all at once": together,
            "one by one": lambda: [ask() for _ in range(given.clients)],
        }
        for _ in range(given.rounds):
            for name, way in ways.items():
                begin_busy = time.process_time()
                times.setdefault(name, []).append(seconds(way)[0])
                busy.setdefault(name, []).append(time.process_time() - begin_busy)
    machine = machine_facts()
    medians = {name: statistics.median(found) for name, found in times.items()}
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads; model "
        f"{given.model}, {given.tokens} tokens an answer, {given.clients} clients, median of "
        f"{given.rounds} rounds"
    ]
    for name, found in times.items():
        lines.append(f"{name:12} {medians[name]:7.3f} s ({min(found):.3f} to {max(found):.3f})")
    for name, other in (
        ("one request", "generate"), ("one stream", "generate"), ("one by one", "all at once"),
    ):  # fmt: skip
        # Of each round by itself: what else the machine does changes from round to round.
        wall, cpu = (
            statistics.median(a / b for a, b in zip(found[name], found[other], strict=True))
            for found in (times, busy)
        )
        lines.append(f"{name} over {other}: {wall:.2f}, in processor time {cpu:.2f}")
    sys.stdout.write("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
