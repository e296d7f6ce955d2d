# SPDX-License-Identifier: MIT
"""What Influence costs in a forward pass, beside the pass alone and eager attention that saves all.

    make bench-influence                        1k to 32k tokens, some twenty minutes
    make bench-influence BENCH="-k tokens1024"  less

A model with four layers of a realistic size and random weights. `eager` is how it is done without
a kernel: every layer's matrix of attention is kept, and the recursion runs over them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from bench_generate import CONFIGS, SIZES, SMOKE_SIZES
from influence_reference import reference_levels
from memory import PeakMemory
from problems import DTYPE_NAMES
from pytest_benchmark.fixture import BenchmarkFixture
from recording import Run
from report_influence import EAGER, INFLUENCE, PLAIN, SDPA
from sampling import summary
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

import guide_ext.integration as guide
from guide_ext.influence.forms import form_named
from guide_ext.integration.model.verify import keeping_implementation

KIND = "influence"
FEWEST_ROUNDS = 3
# Bytes of all layers' matrices beyond which eager attention is not tried.
LARGEST_MATRICES = 6 << 30
# Tokens beyond which SDPA, which costs twice what we do and is not the question, is not tried.
LONGEST_SDPA = 16384
CHECKED_TOKENS = 48
ALLOWED = {torch.float32: 1e-4, torch.bfloat16: 0.05}  # of values between 0 and 1


@dataclass(frozen=True)
class Setting:
    """What is measured: in which dtype, over how many tokens."""

    dtype: torch.dtype
    tokens: int
    is_smoke: bool = False

    def __str__(self) -> str:
        """Give an id that reads."""
        return f"llama-{DTYPE_NAMES[self.dtype]}-tokens{self.tokens}"

    @property
    def sizes(self) -> dict[str, Any]:
        """Sizes of the model."""
        return SIZES | CONFIGS["llama"] | (SMOKE_SIZES if self.is_smoke else {})

    @property
    def matrix_bytes(self) -> int:
        """Bytes of the attention matrices of all layers, and of the float32 ones of one layer."""
        heads, layers = self.sizes["num_attention_heads"], self.sizes["num_hidden_layers"]
        return int(heads * self.tokens**2 * (layers * self.dtype.itemsize + 8))


SETTINGS = [
    Setting(torch.float32, 2048),
    *(Setting(torch.bfloat16, tokens) for tokens in (1024, 2048, 4096, 8192, 16384, 32768)),
]
SMOKE = [Setting(torch.float32, 60, is_smoke=True)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    is_smoke = metafunc.config.getoption("--problems") == "smoke"
    settings = SMOKE if is_smoke else SETTINGS
    metafunc.parametrize("setting", [pytest.param(s, id=str(s)) for s in settings])


def test_influence(
    benchmark: BenchmarkFixture, setting: Setting, run: Run, record_property: Any
) -> None:
    """Verify and time one length."""
    end = time.monotonic() + run.share_of_time()
    model, ways = _ways(setting, setting.tokens)
    _verify(setting, model)
    samples: dict[str, list[float]] = {name: [] for name in ways}
    peaks, left_out = {}, {}
    if setting.matrix_bytes > LARGEST_MATRICES:
        del ways[EAGER], samples[EAGER]
        size = setting.matrix_bytes / 2**30
        left_out[EAGER] = f"the matrices of all heads and layers take {size:.0f} GiB"
    if setting.tokens > LONGEST_SDPA:
        del ways[SDPA], samples[SDPA]
        left_out[SDPA] = f"its passes over more than {LONGEST_SDPA} tokens take minutes each"
    begin = time.monotonic()
    for name, call in ways.items():  # warms up, too
        with PeakMemory(torch.device("cpu")) as memory:
            call()
        peaks[name] = memory.peak_bytes
    now = time.monotonic()
    rounds = max(FEWEST_ROUNDS, min(run.most_rounds, int((end - now) / (now - begin))))

    def take_turns() -> None:
        names = list(ways)
        first = len(samples[names[0]]) % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            ways[name]()
            samples[name].append(1e3 * (time.perf_counter() - start))

    benchmark.pedantic(take_turns, rounds=rounds, iterations=1)
    record = {
        "problem": str(setting),
        "dtype": DTYPE_NAMES[setting.dtype],
        "tokens": setting.tokens,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "rows": [
            {"implementation": name, "peak_bytes": peaks[name], "samples_ms": times}
            | summary(times)
            for name, times in samples.items()
        ],
        "left_out": left_out,
    }
    benchmark.extra_info.update(record)
    run.records[KIND].append(record)
    medians = {row["implementation"]: row["median_ms"] for row in record["rows"]}
    shown = ", ".join(f"{name} {median:.0f} ms" for name, median in medians.items())
    record_property("progress", shown)


def _ways(setting: Setting, tokens: int) -> tuple[Any, dict[str, Callable[[], Any]]]:
    """Make a model, and what is timed of it."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", **setting.sizes | {"max_position_embeddings": SETTINGS[-1].tokens}, pad_token_id=0
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    model = guide.enable(model.to(setting.dtype))
    inputs, bias, seed = _inputs(setting, tokens)
    plain = inputs | {"use_cache": False, "logits_to_keep": 1}

    def sdpa() -> Any:
        with torch.no_grad(), keeping_implementation(model):
            model.set_attn_implementation("sdpa")
            return model(**plain)

    def steered() -> Any:
        with torch.no_grad():
            return model(**plain, guide_bias=bias)

    def influence() -> Tensor:
        marked = inputs | {"guide_bias": bias, "guide_seed": seed}
        return guide.influence(model, marked).values

    def eager() -> Tensor:
        return _eager(model, inputs, seed)

    return model, {SDPA: sdpa, PLAIN: steered, INFLUENCE: influence, EAGER: eager}


def _eager(model: Any, inputs: dict[str, Tensor], seed: Tensor) -> Tensor:
    """Save every layer's matrix, and run the recursion over them."""
    form = form_named("paper")
    residuals: list[Tensor | None] = []
    updates: list[Tensor | None] = []
    handles = []
    for layer in model.model.layers:
        handles += [
            layer.register_forward_pre_hook(lambda m, args: residuals.append(form.norms(args[0]))),
            layer.self_attn.register_forward_hook(
                lambda m, args, out: updates.append(form.norms(out[0]))
            ),
        ]
    try:
        with torch.no_grad(), keeping_implementation(model):
            model.set_attn_implementation("eager")
            output = model(**inputs, use_cache=False, logits_to_keep=1, output_attentions=True)
    finally:
        for handle in handles:
            handle.remove()
    level = seed
    levels = [level]
    for weights, residual, update in zip(output.attentions, residuals, updates, strict=True):
        mean = weights.mean(1, dtype=torch.float32)
        reduced = torch.einsum("bqk,bgk->bgq", mean, level)[:, :, None]
        level = form.step(level, reduced, residual, update)
        levels.append(level)
    return torch.stack(levels, dim=1)


def _verify(setting: Setting, model: Any) -> None:
    """Compare a short text with the reference of the tests, and eager with guide."""
    inputs, bias, seed = _inputs(setting, CHECKED_TOKENS)
    allowed = ALLOWED[setting.dtype]
    found = guide.influence(model, inputs | {"guide_bias": bias, "guide_seed": seed}).values
    with keeping_implementation(model):
        wanted = reference_levels(model, "llama", inputs, seed, bias=bias)
    assert (found - wanted).abs().max() <= allowed
    plain = guide.influence(model, inputs | {"guide_seed": seed}).values
    assert (_eager(model, inputs, seed) - plain).abs().max() <= allowed


def _inputs(setting: Setting, tokens: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    input_ids = torch.randint(1, int(setting.sizes["vocab_size"]), (1, tokens))
    bias = torch.zeros(1, tokens)
    bias[:, tokens // 8 : tokens // 4] = 1.0
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    return inputs, bias, bias[:, None].clone()
