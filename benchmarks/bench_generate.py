# SPDX-License-Identifier: MIT
"""Tokens per second of `generate` with transformers' sdpa, with guide, and with eager attention.

    make bench-generate                         all, some eight minutes
    make bench-generate BENCH="-k llama"        some

Two models with layers of a realistic size and random weights, four layers of each. What guide adds
is the same in every layer, so the share of four is the share of forty. Before anything is timed,
guide is compared with sdpa, and with steered eager attention, in float32.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import models
import pytest
import torch
from memory import PeakMemory
from problems import DTYPE_NAMES
from pytest_benchmark.fixture import BenchmarkFixture
from recording import Run
from report_generate import EAGER, GUIDE, GUIDE_BIAS, GUIDE_INFLUENCE, SDPA
from sampling import summary
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

import guide_ext.integration as guide

KIND = "generate"
FEWEST_ROUNDS = 3
CHECKED_TOKENS = 48  # a prompt long enough to see a wrong mask

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8},
    "qwen3": {"intermediate_size": 6144, "num_attention_heads": 16, "num_key_value_heads": 8,
              "head_dim": 128},
}  # fmt: skip
SIZES: dict[str, Any] = {
    "hidden_size": 2048, "num_hidden_layers": 4, "vocab_size": 32000,
    "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip
SMOKE_SIZES: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 97, "head_dim": 16,
    "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What is generated: by which model, in which dtype, from how long a prompt."""

    model: str
    dtype: torch.dtype
    prompt: int
    new_tokens: int = 32
    is_smoke: bool = False

    def __str__(self) -> str:
        """Give an id that reads."""
        return f"{self.model}-{DTYPE_NAMES[self.dtype]}-prompt{self.prompt}"


SETTINGS = [
    Setting(model, dtype, prompt)
    for prompt in (512, 4096)
    for model in CONFIGS
    for dtype in (torch.float32, torch.bfloat16)
    if prompt == 512 or dtype == torch.bfloat16
]
SMOKE = [Setting(model, torch.bfloat16, 60, new_tokens=8, is_smoke=True) for model in CONFIGS]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    is_smoke = metafunc.config.getoption("--problems") == "smoke"
    threads = 1 if is_smoke else torch.get_num_threads()
    parameters = [
        pytest.param(setting, threads, id=f"{setting}-t{threads}")
        for setting in (SMOKE if is_smoke else SETTINGS)
    ]
    metafunc.parametrize(("setting", "threads"), parameters)


class Stamps(StoppingCriteria):
    """Notes when each token is there; stops nothing."""

    def __init__(self) -> None:
        """Begin with none."""
        self.times: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        """Note one token."""
        self.times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


class Turns:
    """One call is one round: one `generate` by every implementation, each round in another order.

    Attributes:
        samples: Of every implementation, tokens per second of the prompt, and of decoding.

    """

    def __init__(self, ways: dict[str, tuple[Any, dict[str, Tensor]]], new_tokens: int) -> None:
        """Take models and their inputs, by the names of implementations."""
        self._ways, self._new_tokens, self._round = ways, new_tokens, 0
        self.samples: dict[str, dict[str, list[float]]] = {
            name: {"prefill": [], "decode": []} for name in ways
        }

    def __call__(self) -> None:
        """Take the samples."""
        names = list(self._ways)
        first = self._round % len(names)
        for name in names[first:] + names[:first]:
            prefill, decode = self.generate(name)
            self.samples[name]["prefill"].append(prefill)
            self.samples[name]["decode"].append(decode)
        self._round += 1

    def generate(self, name: str) -> tuple[float, float]:
        """Return tokens per second of the prompt, up to the first new token, and of the rest."""
        model, inputs = self._ways[name]
        stamps, begin = Stamps(), time.perf_counter()
        options = {
            "max_new_tokens": self._new_tokens,
            "min_new_tokens": self._new_tokens,
            "do_sample": False,
            "pad_token_id": 0,
            "stopping_criteria": StoppingCriteriaList([stamps]),
        }
        if "guide_seed" in inputs:
            guide.generate_with_influence(model, inputs, **options)
        else:
            model.generate(**inputs, **options)
        prompt = inputs["input_ids"].shape[1]
        rest = (len(stamps.times) - 1) / (stamps.times[-1] - stamps.times[0])
        return prompt / (stamps.times[0] - begin), rest


def test_generate(
    benchmark: BenchmarkFixture, setting: Setting, threads: int, run: Run, record_property: Any
) -> None:
    """Verify and time one model."""
    torch.set_num_threads(threads)
    end = time.monotonic() + run.share_of_time()
    twins = _twins(setting)
    guide.enable(twins[GUIDE])
    _verify(twins, setting)
    _share(twins, setting.dtype)
    plain = _inputs(setting.prompt, setting)
    steered = plain | {"guide_bias": _marks(setting.prompt)}
    measured = steered | {"guide_seed": (steered["guide_bias"] > 0).float()[:, None]}
    ways = {
        SDPA: (twins[SDPA], plain),
        GUIDE: (twins[GUIDE], plain),
        GUIDE_BIAS: (twins[GUIDE], steered),
        GUIDE_INFLUENCE: (twins[GUIDE], measured),
        EAGER: (twins[EAGER], plain),
    }
    turns = Turns(ways, setting.new_tokens)
    begin, peaks = time.monotonic(), {}
    for name in ways:  # warms up, too
        with PeakMemory(torch.device("cpu")) as memory:
            turns.generate(name)
        peaks[name] = memory.peak_bytes
    now = time.monotonic()
    rounds = max(FEWEST_ROUNDS, min(run.most_rounds, int((end - now) / (now - begin))))
    benchmark.pedantic(turns, rounds=rounds, iterations=1)
    record = {
        "problem": str(setting),
        "model": setting.model,
        "dtype": DTYPE_NAMES[setting.dtype],
        "prompt": setting.prompt,
        "new_tokens": setting.new_tokens,
        "threads": threads,
        "load": os.getloadavg()[0],
        "rows": [
            {
                "implementation": name,
                "peak_bytes": peaks[name],
                **{
                    phase: {"samples": rates} | summary(rates, "tokens_per_s")
                    for phase, rates in phases.items()
                },
            }
            for name, phases in turns.samples.items()
        ],
    }
    benchmark.extra_info.update(record)
    run.records[KIND].append(record)
    rates = {row["implementation"]: row["decode"]["median_tokens_per_s"] for row in record["rows"]}
    shown = ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items())
    record_property("progress", f"tokens/s of decoding: {shown}")


def _twins(setting: Setting) -> dict[str, Any]:
    """Make models for sdpa, guide and eager attention that share one set of random weights."""
    sizes = SIZES | CONFIGS[setting.model] | (SMOKE_SIZES if setting.is_smoke else {})
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    twins = {}
    for name, implementation in {SDPA: "sdpa", GUIDE: "sdpa", EAGER: "eager"}.items():
        config = AutoConfig.for_model(setting.model, **sizes, **ends)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
        twins[name] = model.eval()
        _share(twins)
    return twins


def _share(twins: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
    """Cast the weights of the first, and give them to the others."""
    first, *others = twins.values()
    for parameter in first.parameters():
        parameter.data = parameter.data.to(dtype)
    for other in others:
        other.load_state_dict(first.state_dict(), assign=True)


def _verify(twins: dict[str, Any], setting: Setting) -> None:
    """Compare guide with sdpa, and with steered eager attention, in float32."""
    inputs, bias = _inputs(CHECKED_TOKENS, setting), _marks(CHECKED_TOKENS)
    wanted = models.logits(twins[SDPA], inputs)
    models.assert_logits_close(models.logits(twins[GUIDE], inputs), wanted)
    steered = models.logits(twins[GUIDE], inputs, guide_bias=bias)
    models.assert_logits_close(steered, models.reference_logits(twins[EAGER], inputs, bias))
    found, plain = (
        models.generation(twins[name], inputs, max_new_tokens=8) for name in (GUIDE, SDPA)
    )
    models.assert_same_generation(found, plain)


def _inputs(tokens: int, setting: Setting) -> dict[str, Tensor]:
    largest = (SMOKE_SIZES if setting.is_smoke else SIZES)["vocab_size"]
    input_ids = torch.randint(1, int(largest), (1, tokens))
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def _marks(tokens: int) -> Tensor:
    """Return 1 nat on an eighth of the prompt."""
    bias = torch.zeros(1, tokens)
    bias[:, tokens // 8 : tokens // 4] = 1.0
    return bias
