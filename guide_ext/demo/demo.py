# SPDX-License-Identifier: MIT
"""The demo: plain and guided answers of the embedded model to unseen documents, counted and timed.

Every number comes from the run itself. The scores are those of ``embedded.evaluate``: an answer
counts only if every word of it is right.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from guide_ext import integration
from guide_ext.embedded import evaluate, model_path
from guide_ext.embedded.evaluate import Case, CaseKind, Outcome
from guide_ext.embedded.world import Style
from guide_ext.machine.facts import machine_facts
from guide_ext.support.files import json_text, write_text
from guide_ext.support.version import VERSION

TITLES = {
    CaseKind.FRENCH: "“Summarize in French”",
    CaseKind.JSON: "“Your response should follow exactly this template”",
}
_LONGEST_ANSWER = 40  # tokens; the longest right answer has 30


@dataclass(frozen=True)
class DemoSettings:
    """What the demo measures.

    Attributes:
        documents: Documents per task, at least 2.
        deltas: Strengths of the marked instruction in nats; 0 is the plain model.
        seed: Seed of the documents. The default is none of the seeds that the model was developed
            or evaluated on.
        batch_size: Prompts per call of ``generate``.
        sample_deltas: Strengths whose answers are shown side by side.
        samples: Documents to show per task.
        speed_rounds: Rounds of the interleaved timing.

    Raises:
        ValueError: A value is out of range.

    Example:
        >>> DemoSettings(documents=1)
        Traceback (most recent call last):
        ...
        ValueError: documents must be at least 2, got 1

    """

    documents: int = 120
    deltas: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 9.0)
    seed: int = 2026
    batch_size: int = 32
    sample_deltas: tuple[float, ...] = (0.0, 2.0, 9.0)
    samples: int = 3
    speed_rounds: int = 7

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, least in (("documents", 2), ("batch_size", 1), ("speed_rounds", 1)):
            if getattr(self, name) < least:
                msg = f"{name} must be at least {least}, got {getattr(self, name)}"
                raise ValueError(msg)


def run_demo(
    settings: DemoSettings,
    *,
    on_progress: Callable[[int, int], None] | None = None,
    on_timing: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Run every task at every Δ, the prompt-engineering baselines, and the timing.

    Args:
        settings: What to run.
        on_progress: Called with the number of answers so far and of all answers.
        on_timing: Called with the number of timed calls of ``generate`` so far and of all of them.

    Returns:
        A JSON-ready record: version, settings, machine, one entry per task with its rows and
        samples, speed.

    Raises:
        OSError: The embedded model is missing from the installation.

    """
    folder = str(model_path())
    model, tokenizer = integration.load(folder, dtype="float32", device="cpu")
    runs = [(Style.PLAIN, delta) for delta in settings.deltas]
    runs += [(Style.UPPER, 0.0), (Style.IMPORTANT, 0.0)]
    total = settings.documents * len(runs) * len(TITLES)
    done = 0

    def generate(prompts: Sequence[str], delta: float) -> list[str]:
        nonlocal done
        chats = [integration.as_prompt(tokenizer, prompt) for prompt in prompts]
        answers = integration.complete(
            model,
            tokenizer,
            chats,
            delta=delta,
            max_new_tokens=_LONGEST_ANSWER,
            batch_size=settings.batch_size,
        )
        done += len(prompts)
        if on_progress is not None:
            on_progress(done, total)
        return answers

    cases_of = {
        task: evaluate.make_cases(task, settings.documents, settings.seed, tokenizer=tokenizer)
        for task in TITLES
    }
    tasks = []
    for task, title in TITLES.items():
        cases = cases_of[task]
        outcomes = {
            (style, delta): list(
                evaluate.run_cases(
                    cases, generate, delta=delta, style=style, batch_size=settings.batch_size
                )
            )
            for style, delta in runs
        }
        rows = [_row(style, delta, found) for (style, delta), found in outcomes.items()]
        samples = _samples(cases, outcomes, settings)
        tasks.append({"task": task.value, "title": title, "rows": rows, "samples": samples})
    return {
        "version": VERSION,
        "settings": asdict(settings),
        "machine": machine_facts(),
        "tasks": tasks,
        "speed": measure_speed(
            model,
            tokenizer,
            cases_of[CaseKind.FRENCH],
            rounds=settings.speed_rounds,
            on_progress=on_timing,
        ),
    }


def save_result(result: dict[str, Any], folder: Path) -> Path:
    """Write ``results.json`` into a folder, make that if need be, and return the file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    write_text(path, json_text(result, indent=2) + "\n")
    return path


def _row(style: Style, delta: float, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    summary = evaluate.summarize(outcomes)
    return {
        "variant": "tags" if style is Style.PLAIN else style.name.lower(),
        "delta": delta,
        "success": summary.success.value,
        "success_interval": summary.success.interval(0.95),
        "well_formed": summary.well_formed.value,
        "followed": summary.followed.value,
        "trials": summary.success.trials,
    }


def _samples(
    cases: Sequence[Case],
    outcomes: dict[tuple[Style, float], list[Outcome]],
    settings: DemoSettings,
) -> list[dict[str, Any]]:
    """Return every n-th document with its answers, so that examples are not hand-picked."""
    step = max(1, len(cases) // (settings.samples + 1))
    chosen = range(step, len(cases), step)[: settings.samples]
    shown = [delta for delta in settings.sample_deltas if delta in settings.deltas]
    return [
        {
            "prompt": _shorten(cases[index].prompt),
            "wanted": cases[index].answer,
            "answers": {
                f"{delta:g}": outcomes[Style.PLAIN, delta][index].text.strip() for delta in shown
            },
        }
        for index in chosen
    ]


def _shorten(prompt: str, limit: int = 110) -> str:
    line = " / ".join(prompt.split("\n"))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def measure_speed(
    model: Any,
    tokenizer: Any,
    cases: Sequence[Case],
    *,
    rounds: int,
    prompts: int = 16,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Time ``generate`` in turn with sdpa, with guide unsteered, and with guide steered.

    All three write the same number of tokens for the same prompts. Times are medians over the
    rounds.

    Args:
        model: The enabled model.
        tokenizer: Its tokenizer.
        cases: Source of the prompts, shortest first; the last ones are taken.
        rounds: Timed rounds; one round more is run first, to warm up.
        prompts: Prompts in the batch.
        on_progress: Called with the number of calls of ``generate`` so far and of all of them.

    Returns:
        A record with one row per way: seconds, tokens per second, and time divided by sdpa's.

    """
    baseline, _ = integration.load(
        str(model_path()), dtype="float32", device="cpu", steerable=False
    )
    baseline.set_attn_implementation("sdpa")
    chats = [integration.as_prompt(tokenizer, case.prompt) for case in cases[-prompts:]]
    unsteered = integration.encode(model, tokenizer, chats, delta=0.0)
    plain = {name: unsteered[name] for name in ("input_ids", "attention_mask")}
    steered = integration.encode(model, tokenizer, chats, delta=2.0)
    runs = {
        "sdpa": (baseline, plain),
        "guide": (model, plain),
        "guide, Δ = 2": (model, steered),
    }
    new_tokens = _LONGEST_ANSWER
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_index in range(rounds + 1):
        for index, (name, (runner, inputs)) in enumerate(runs.items()):
            if on_progress is not None:
                on_progress(round_index * len(runs) + index, (rounds + 1) * len(runs))
            start = time.perf_counter()
            with torch.inference_mode():
                runner.generate(
                    **inputs, do_sample=False, min_new_tokens=new_tokens, max_new_tokens=new_tokens
                )
            if round_index > 0:
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [
        {
            "attention": name,
            "seconds": median,
            "tokens_per_second": len(chats) * new_tokens / median,
            "time_ratio": median / medians["sdpa"],
        }
        for name, median in medians.items()
    ]
    return {
        "prompts": len(chats),
        "prompt_tokens": int(plain["input_ids"].shape[1]),
        "new_tokens": new_tokens,
        "rounds": rounds,
        "rows": rows,
    }
