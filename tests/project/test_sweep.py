# SPDX-License-Identifier: MIT
"""A sample of the sweep over architectures: those that differ most. All: ``make sweep``."""

import re
from collections import Counter
from pathlib import Path

import pytest
from sweep.__main__ import judge, main
from sweep.build import TASKS
from sweep.page import PAGE, read, written

ROOT = Path(__file__).resolve().parents[2]
# What the page says of every type; a type that changes its class makes this fail.
ON_PAGE = read(PAGE.read_text(encoding="utf-8"))
SAMPLE = {
    "causal": (
        # Windows, caps, sinks, norms, parallel blocks, positions.
        "llama", "gemma2", "gemma3_text", "gpt_oss", "olmo2", "cohere2", "phi3", "opt",
        "gpt_neox", "modernbert-decoder",
        # Latent attention; chunks; shared keys; encoders that decode; an own tower beside.
        "deepseek_v3", "llama4_text", "gemma3n_text", "bert", "bart", "whisper", "got_ocr2",
        # State-space and linear layers between.
        "jamba", "bamba", "nemotron_h", "qwen3_next", "zamba2", "recurrent_gemma",
        # Selections; compression; loops; attention that is called twice.
        "axk2", "qwen4_exp_text", "doge", "deepseek_v4", "hrm_text", "diffllama",
        # Code of their own; no attention at all.
        "bloom", "falcon", "mpt", "git", "mamba", "inkling2_text",
    ),
    # Relative positions; masks that are lost; two encoders; layers of experts.
    "seq2seq": ("t5", "mbart", "longt5", "switch_transformers", "t5gemma", "seamless_m4t",
                "nllb-moe", "led"),
    # No masks; tables of the encoder's own; an encoder that gives on less than it reads.
    "speech": ("whisper", "moonshine", "canary", "seamless_m4t"),
    "masked": ("modernbert", "albert", "layoutlm", "deberta", "roformer", "fnet"),
    "image-text": ("qwen2_vl", "llava", "mllama", "paligemma", "idefics3"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("task", "model_type"), [(task, name) for task, types in SAMPLE.items() for name in types]
)
def test_type(task, model_type):
    verdict = judge(model_type, task)
    found = verdict.kind, verdict.influence.partition(":")[0] or "–"
    assert found == ON_PAGE[task, model_type], verdict


def test_page_has_every_type_once_and_none_that_is_wrong():
    types = {kind for task, (names, _) in TASKS.items() for kind in map(str, names.values())}
    classes = Counter(str(TASKS[task][0][name]) for task, name in ON_PAGE)
    assert set(classes) == types
    kinds = Counter(kind for kind, _ in ON_PAGE.values())
    assert not kinds["WRONG"]
    assert not kinds["fails"]


def test_page_can_be_read_back():
    chosen = [("causal", "llama"), ("causal", "mamba"), ("masked", "deberta")]
    found = {(task, name): judge(name, task) for task, name in chosen}
    page = written(found, 1e-3)
    assert read(page) == {key: ON_PAGE[key] for key in chosen}
    assert "| all | 3 | 1 | 2 |" in page
    assert "attention of its own; its scores do not have the bias" in page


def test_pages_that_count_types_say_what_this_one_does():
    kinds = {
        task: Counter(kind for (own, _), (kind, _) in ON_PAGE.items() if own == task)
        for task in TASKS
    }
    every = sum(kinds.values(), Counter())
    exact = sum(count for kind, count in every.items() if kind.startswith("exact"))
    for page in ("README.md", "docs/transformers.md"):
        text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
        told = re.search(r"Of the (\d+) types of transformers ([\d.]+\d), (\d+) are exact", text)
        assert told, page
        assert (int(told[1]), int(told[3])) == (every.total(), exact), page
        assert f"transformers {told[2]}" in PAGE.read_text(encoding="utf-8"), page


def test_command(capsys):
    assert main(["causal:llama", "mamba"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[1:3]] == ["causal:llama", "causal:mamba"]
    assert printed[-1] == "causal: 1 exact, 1 refused"
    assert main(["lama"]) == 2
    assert main(["masked:llama"]) == 2
