# SPDX-License-Identifier: MIT
"""Parity with what the authors' package computes.

`data/authors_mistral_expected.safetensors` holds what it gave, in float32, for a tiny random
Mistral: logits, greedy continuations, and Influence and rollout ``[layers + 1, tokens]`` of the
marked tokens, plain and under Δ.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, safe_open
from tolerance import INFLUENCE, MODEL_LOGITS
from transformers import MistralConfig, MistralForCausalLM

from guide_ext import integration as guide

DATA = Path(__file__).with_name("data")
WANTED = load_file(DATA / "authors_mistral_expected.safetensors")
SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "sliding_window",
    "tie_word_embeddings", "hidden_act",
)  # fmt: skip


@pytest.fixture(scope="module")
def metadata():
    with safe_open(DATA / "authors_mistral_expected.safetensors", "pt") as file:
        return file.metadata()


@pytest.fixture(scope="module")
def model(metadata):
    theirs = json.loads(metadata["config"])
    config = MistralConfig(**{name: theirs[name] for name in SIZES})
    model = MistralForCausalLM(config).eval()
    model.load_state_dict(load_file(DATA / "authors_mistral_weights.safetensors"))
    model.generation_config.eos_token_id = None
    return guide.enable(model)


@pytest.fixture
def marked(metadata):
    """1 on the marked tokens."""
    begin, end = map(int, metadata["span"].split(","))
    seed = torch.zeros(1, 1, WANTED["input_ids"].shape[1])
    seed[..., begin:end] = 1
    return seed


@pytest.mark.parametrize("delta", ["0.0", "2.0"])
@pytest.mark.parametrize(("form", "name"), [("authors", "influence"), ("rollout", "rollout")])
def test_influence(model, marked, delta, form, name):
    bias = float(delta) * marked[:, 0]
    inputs = {"input_ids": WANTED["input_ids"], "guide_seed": marked, "guide_bias": bias}
    found = guide.influence(model, inputs, form=form)
    assert (found.values[0, :, 0] - WANTED[f"{name}_delta{delta}"]).abs().max() <= INFLUENCE


@pytest.mark.parametrize("delta", ["0", "0.5", "2.0", "-1.5"])
def test_steering(model, marked, delta):
    ids, bias = WANTED["input_ids"], float(delta) * marked[:, 0]
    with torch.no_grad():
        found = model(ids, guide_bias=bias).logits
    wanted = WANTED[f"logits_delta{delta}"]
    assert (found - wanted).abs().max() <= MODEL_LOGITS * wanted.abs().max()
    if (continuation := WANTED.get(f"generated_delta{delta}")) is not None:
        new = continuation.shape[1] - ids.shape[1]
        text = model.generate(ids, guide_bias=bias, max_new_tokens=new, pad_token_id=0)
        assert torch.equal(text, continuation)
