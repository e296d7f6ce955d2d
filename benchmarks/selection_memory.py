# SPDX-License-Identifier: MIT
"""Memory at the peak of one prompt in models that choose the keys of every query.

    .venv/bin/python benchmarks/selection_memory.py

The small models of the sweep (``tests/sweep``), in float32 on the CPU, in a process for each
figure: plain with SDPA, and steered with "guide". Some minutes, most of them for imports.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

TESTS = Path(__file__).resolve().parents[1] / "tests"
TYPES = ("deepseek_v32", "minimax_m3_vl_text")
TOKENS = (1024, 2048, 4096)
LONGEST = 8192


def peak(model_type: str, way: str, tokens: int) -> float:
    """Return the MiB that a forward pass over a prompt takes at its peak."""
    sys.path[:0] = [str(TESTS), str(TESTS / "helpers")]
    from memory import PeakMemory
    from sweep.build import VOCABULARY, build

    import guide_ext.integration as guide

    model = build(model_type, max_position_embeddings=LONGEST)
    ids = torch.randint(3, VOCABULARY, (1, tokens), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if way == "guide":
        guide.enable(model)
        inputs["guide_bias"] = torch.zeros(1, tokens)
        inputs["guide_bias"][0, :8] = 2.0
    else:
        model.set_attn_implementation(way)
    with torch.inference_mode():
        model(**{name: value[:, :32] for name, value in inputs.items()}, use_cache=False)
        with PeakMemory(torch.device("cpu")) as memory:
            model(**inputs, use_cache=False)
    if memory.peak_bytes is None:
        raise SystemExit("the peak of this process cannot be measured here")
    return memory.peak_bytes / 2**20


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(words: list[str]) -> None:
    """Print one figure, or all of them as a table."""
    if words:
        _say(f"{peak(words[0], words[1], int(words[2])):.0f}")
        return
    _say("| type | tokens | SDPA, plain | guide, steered |\n|---|---|---|---|")
    for model_type in TYPES:
        for tokens in TOKENS:
            own = [
                subprocess.run(
                    [sys.executable, __file__, model_type, way, str(tokens)],
                    check=True, capture_output=True, text=True,
                ).stdout.strip()
                for way in ("sdpa", "guide")
            ]  # fmt: skip
            _say(f"| `{model_type}` | {tokens} | {' | '.join(f'{one} MiB' for one in own)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
