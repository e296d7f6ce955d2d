# SPDX-License-Identifier: MIT
"""How long a study takes on a real model: needles in texts, each asked for under seven Δ.

    make bench-study                            SmolLM2, 24 documents, some eight minutes
    make bench-study SPEED="--documents 120 --only-ours --rounds 1"    as a study should have

Three ways, over the same batches: as `guide-ext study run` does it, what stands before the mark
computed once for all Δ; `generate` for every prompt; and `generate` of the plain model with SDPA,
which knows no marks. If the answers of the first two differ, there is no result; with --only-ours,
it says that nothing was compared. Writes study.json and study.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ceilings
import torch
from facts import cpu_facts
from problems import DTYPE_NAMES
from report import page, rounded
from report_study import GENERATE, OURS, SDPA, summary
from transformers import AutoModelForCausalLM

import guide_ext.integration as guide
from guide_ext.integration.checkpoint import without_bars
from guide_ext.integration.packaged import resolved
from guide_ext.machine.memory import keep_freed_memory
from guide_ext.studies import needle
from guide_ext.studies.cells import Cell
from guide_ext.studies.plan import RunSettings, batches_of, study_cells
from guide_ext.studies.run.engine import TransformersEngine, prompt_of
from guide_ext.studies.run.rows import rows_of

# Rounding differs between ways; of so many answers, one may turn at a tie.
ANSWERS_OF_ONE_TIE = 50
Way = Callable[[Sequence[Cell]], list[str]]


def ways_of(settings: RunSettings, *, only_ours: bool) -> tuple[dict[str, Way], Any, Any]:
    """Return the ways to answer a batch, the enabled model and its tokenizer."""
    engine = TransformersEngine(settings, Path(), device="cpu")
    model, tokenizer = guide.load(settings.model, dtype=settings.dtype, device="cpu")
    ways: dict[str, Way] = {OURS: lambda batch: [found["text"] for found in engine.run(batch)]}
    if only_ours:
        return ways, model, tokenizer
    plain = AutoModelForCausalLM.from_pretrained(
        resolved(settings.model), attn_implementation="sdpa", dtype=model.dtype
    ).eval()

    def generated(which: Any, names: Sequence[str]) -> Way:
        def answer(batch: Sequence[Cell]) -> list[str]:
            inputs = inputs_of(settings, model, tokenizer, batch)
            decoding = batch[0].decoding
            assert decoding is not None
            with torch.inference_mode():
                tokens = which.generate(
                    **{name: inputs[name] for name in names},
                    max_new_tokens=decoding.max_new_tokens,
                    do_sample=False,
                )
            new = tokens[:, inputs["input_ids"].shape[1] :]
            texts: list[str] = tokenizer.batch_decode(new, skip_special_tokens=True)
            return texts

        return answer

    names = ("input_ids", "attention_mask")
    ways[GENERATE] = generated(model, (*names, "guide_bias"))
    ways[SDPA] = generated(plain, names)
    return ways, model, tokenizer


def inputs_of(
    settings: RunSettings, model: Any, tokenizer: Any, batch: Sequence[Cell]
) -> dict[str, torch.Tensor]:
    """Encode the prompts of a batch; their marks state their own Δ."""
    prompts = [prompt_of(settings, tokenizer, cell) for cell in batch]
    inputs: dict[str, torch.Tensor] = guide.encode(model, tokenizer, prompts)
    return inputs


def work(
    settings: RunSettings, model: Any, tokenizer: Any, batches: Sequence[Sequence[Cell]]
) -> dict[str, int]:
    """Count tokens: of all prompts, and those of them that any way must compute.

    What two prompts begin with is computed once, up to the mark of either.
    """
    all_tokens, beginnings, rest = 0, [], 0
    for batch in batches:
        inputs = inputs_of(settings, model, tokenizer, batch)
        for ids, mask, bias in zip(
            inputs["input_ids"], inputs["attention_mask"], inputs["guide_bias"], strict=True
        ):
            own = ids[mask.bool()].tolist()
            marked = bias[mask.bool()].nonzero()
            start = int(marked[0]) if len(marked) else len(own) - 1
            all_tokens += len(own)
            beginnings.append(own[:start])
            rest += len(own) - start
    beginnings.sort()
    once = sum(
        len(one) - common(before, one)
        for before, one in zip([[], *beginnings], beginnings, strict=False)
    )
    return {"prompt_tokens": all_tokens, "least_tokens": once + rest}


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return with how many equal numbers two lists begin.

    Example:
        >>> common([1, 2, 3], [1, 2, 4, 5]), common([], [1])
        (2, 0)

    """
    pairs = zip(one, other, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def flop_per_token(model: Any) -> tuple[float, float]:
    """Return the floating-point operations for a token in the layers, and for its logits.

    Products with weights alone: attention over a few hundred keys adds little to them.
    """
    head = model.get_output_embeddings().weight.numel()
    layers = sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()
    )
    return 2.0 * layers, 2.0 * head


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Answer everything by every way, verify, and time."""
    settings = RunSettings(
        studies=("needle",), model=options.model, data="python-docs", windows=1, baselines=False,
        documents=options.documents, deltas=(0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0),
        batch_size=options.batch_size, dtype=options.dtype,
    )  # fmt: skip
    ways, model, tokenizer = ways_of(settings, only_ours=options.only_ours)
    rows, _ = rows_of(needle.TASK, settings, tokenizer, [])
    rows = [row for row in rows if row.variant == needle.PLAIN_PROMPT]
    batches = batches_of(study_cells(needle.STUDY, settings, rows), settings.batch_size)
    answers = sum(map(len, batches))
    for way in ways.values():  # warms up, too
        way(batches[0][:4])
    texts: dict[str, list[str]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(options.rounds):
        for name in [*ways][turn % len(ways) :] + [*ways][: turn % len(ways)]:
            begin = time.perf_counter()
            texts[name] = [text for batch in batches for text in ways[name](batch)]
            seconds[name].append(time.perf_counter() - begin)
            sys.stdout.write(f"{name}, {answers} answers: {seconds[name][-1]:.1f} s\n")
            sys.stdout.flush()
    different = None
    if GENERATE in texts:
        different = sum(a != b for a, b in zip(texts[OURS], texts[GENERATE], strict=True))
    if different is not None and different > answers // ANSWERS_OF_ONE_TIE:
        raise RuntimeError(
            f"answers must be those of {GENERATE}, got {different} of {answers} others"
        )
    layers, head = flop_per_token(model)
    tokens = work(settings, model, tokenizer, batches)
    new_tokens = sum(len(tokenizer(text)["input_ids"]) + 1 for text in texts[OURS])  # with its end
    flop = layers * (tokens["least_tokens"] + new_tokens) + head * new_tokens
    product = ceilings.products()[ceilings.product_name(DTYPE_NAMES[model.dtype])]
    return {
        "problem": f"needle, {options.documents} documents, 7 Δ",
        "model": options.model,
        "dtype": DTYPE_NAMES[model.dtype],
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "batch": settings.batch_size,
        "documents": options.documents,
        "answers": answers,
        **tokens,
        "new_tokens": new_tokens,
        "different": different,
        "floor_s": flop / product / 1e9,
        "product_gflops": product,
        "rows": [
            {"implementation": name, "samples_s": samples, "median_s": statistics.median(samples)}
            for name, samples in seconds.items()
        ],
    }


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("bench_results"))
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--documents", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only-ours", action="store_true", help="nothing to compare with")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as study run; the ways it is compared with have it, too
    options.out.mkdir(parents=True, exist_ok=True)
    begin, machine = time.monotonic(), cpu_facts()
    with without_bars():
        record = measure(options)
    result = rounded({
        "kind": "study", "machine": machine, "records": [record],
        "seconds": time.monotonic() - begin,
    })  # fmt: skip
    (options.out / "study.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.out / "study.md").write_text(page(result))
    sys.stdout.write("\n".join(["", *summary(result), ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
