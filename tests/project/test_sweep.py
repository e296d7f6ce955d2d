# SPDX-License-Identifier: MIT
"""A sample of the sweep over architectures: those that differ most. All: ``make sweep``."""

import pytest
from sweep.__main__ import judge, main

EXACT, DENSE, REFUSED = "exact", "exact, dense", "refused"

SAMPLE = {
    # Windows, caps, sinks, norms, parallel blocks, positions.
    "llama": EXACT, "gemma2": EXACT, "gemma3_text": EXACT, "gpt_oss": EXACT, "olmo2": EXACT,
    "cohere2": EXACT, "phi3": EXACT, "opt": EXACT, "gpt_neox": EXACT, "modernbert-decoder": EXACT,
    # Latent attention; chunks; shared keys; encoders that decode; an own tower beside.
    "deepseek_v3": EXACT, "llama4_text": EXACT, "gemma3n_text": EXACT, "bert": EXACT,
    "bart": EXACT, "whisper": EXACT, "got_ocr2": EXACT,
    # State-space and linear layers between.
    "jamba": EXACT, "bamba": EXACT, "nemotron_h": EXACT, "qwen3_next": EXACT, "zamba2": EXACT,
    "recurrent_gemma": DENSE,
    # Selections; compression; loops; attention that is called twice.
    "axk2": DENSE, "qwen4_exp_text": DENSE, "doge": DENSE, "deepseek_v4": REFUSED,
    "hrm_text": EXACT, "diffllama": EXACT,
    # Code of their own; no attention at all.
    "bloom": REFUSED, "git": REFUSED, "mamba": REFUSED, "inkling2_text": REFUSED,
}  # fmt: skip


@pytest.mark.parametrize("model_type", SAMPLE)
def test_type(model_type):
    verdict = judge(model_type)
    assert verdict.kind == SAMPLE[model_type], verdict


def test_command(capsys):
    assert main(["llama", "mamba"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[1:3]] == ["llama", "mamba"]
    assert printed[-1] == "1 exact, 1 refused"
    assert main(["lama"]) == 2
