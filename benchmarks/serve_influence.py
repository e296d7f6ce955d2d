# SPDX-License-Identifier: MIT
"""What Influence adds to both answers of the server's page, per token, and what one stream saves.

    python benchmarks/serve_influence.py

Both sides generate the same two answers, plain and guided, in one batch; they are compared first.
Seconds are those of the processor: of one thread, whatever else the machine does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

import guide_ext.integration as guide
from guide_ext.integration.answer_rows import Row, generate
from guide_ext.integration.compare import measure_prompt
from guide_ext.integration.side_by_side import measure_side_by_side
from guide_ext.machine.facts import machine_facts
from guide_ext.marking.chat import encode_chat
from guide_ext.serve.measuring import told
from guide_ext.serve.wire import event
from guide_ext.steering.steering import Steering

TEXT = Path(__file__).resolve().parents[1] / "docs" / "example_prompt.txt"


def seconds(function):
    """Call a function, and return how long the processor took and what it returned."""
    begin = time.process_time()
    found = function()
    return time.process_time() - begin, found


def main() -> None:
    """Print the milliseconds per token and what Influence adds to them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--tokens", type=int, default=60, help="tokens of an answer")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = guide.load(given.model)
    model.generation_config.eos_token_id = None  # so that every answer has as many tokens
    chat = [{"role": "user", "content": TEXT.read_text(encoding="utf-8")}]
    encoding = encode_chat(tokenizer, chat)

    def answers():
        texts = ["", ""]

        def push(row):
            def add(piece, _):
                texts[row] += piece

            return add

        generate(model, tokenizer, [
            Row(encoding, Steering.guide(delta), given.tokens, 0.0, 1.0, 0, (), 0,
                push=push(row), end=lambda how: None)
            for row, delta in enumerate((0.0, 2.0))
        ])  # fmt: skip
        return [text.strip() for text in texts]

    def measured():
        with torch.inference_mode():
            record = measure_side_by_side(
                model, tokenizer, encoding, delta=2.0, max_new_tokens=given.tokens,
                on_step=lambda step: event(told(step)),
            )  # fmt: skip
        return [run["answer"] for run in record["runs"]]

    def afterwards():
        with torch.inference_mode():
            measure_prompt(model, tokenizer, encoding, delta=2.0, max_new_tokens=given.tokens)

    assert measured() == answers(), "the answers differ"
    rounds = []
    for _ in range(given.rounds):
        rounds.append([seconds(one)[0] for one in (answers, measured, afterwards)])
    plain, both, later = (statistics.median(column) for column in zip(*rounds, strict=True))
    per_token = 1000 / (2 * given.tokens)
    sys.stdout.write(
        f"{machine_facts()['processor']}, {len(encoding.input_ids)} tokens of prompt\n"
        f"answers alone                {plain * per_token:.2f} ms a token\n"
        f"answers with Influence       {both * per_token:.2f} ms a token, "
        f"{100 * (both / plain - 1):+.0f} %\n"
        f"answers, and then Influence  {(plain + later) * per_token:.2f} ms a token\n"
    )


if __name__ == "__main__":
    main()
