# SPDX-License-Identifier: MIT
"""Enabled models that are moved, offloaded, spread or loaded again: steered, or an error."""

from __future__ import annotations

import copy
import io
import pickle

import models
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import guide_ext.integration as guide


def deepcopied(model):
    return copy.deepcopy(model)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def disabled_original(model):
    double = copy.deepcopy(model)
    guide.disable(model)
    return double


def to_another_dtype_and_back(model):
    return model.to(torch.float64).to(torch.float32)


def with_weights_of(model):
    double = guide.enable(models.make("llama", seed=5))
    double.load_state_dict(model.state_dict())
    return double


def resized_and_back(model):
    model.resize_token_embeddings(models.VOCABULARY + 3)
    model.resize_token_embeddings(models.VOCABULARY)
    return model


TRAVELS = [
    deepcopied, pickled, saved, disabled_original, to_another_dtype_and_back, with_weights_of,
    resized_and_back,
]  # fmt: skip


def compare(model, name="llama"):
    """Compare the logits of a prompt, and greedy tokens with a cache."""
    inputs, bias = models.prompts(), models.marks()
    wanted = models.reference_generation(models.shared(name), inputs, bias)
    found = models.generation(model, {**inputs, "guide_bias": bias})
    models.assert_same_generation(found, wanted)
    wanted = models.reference_logits(models.shared(name), inputs, bias)
    found = models.logits(model, inputs, guide_bias=bias)
    models.assert_logits_close(found, wanted, inputs["attention_mask"])
    models.assert_logits_close(
        models.logits(model, inputs), models.logits(models.shared(name), inputs),
        inputs["attention_mask"],
    )  # fmt: skip


# Dense masks and masks of own attention keep their state elsewhere.
@pytest.mark.parametrize("name", ["llama", "gemma2", "bloom"])
@pytest.mark.parametrize("travel", TRAVELS, ids=lambda travel: travel.__name__)
def test_copies(travel, name):
    if name != "llama" and travel is with_weights_of:
        pytest.skip("makes a llama")
    compare(travel(guide.enable(models.make(name))), name)


def test_copy_of_a_copy_is_disabled_alone():
    model = guide.enable(models.make("llama"))
    double = pickled(deepcopied(model))
    guide.disable(double)
    with pytest.raises(ValueError, match="guide_bias must go to an enabled model"):
        models.logits(double, models.prompts(), guide_bias=models.marks())
    compare(model)


class TestLoadedAgain:
    """`save_pretrained` saves weights; what loads them was never enabled."""

    @pytest.fixture
    def folder(self, tmp_path):
        guide.enable(models.make("llama")).save_pretrained(tmp_path)
        return tmp_path

    @pytest.mark.parametrize("implementation", ["guide", "eager", "sdpa"])
    def test_generate(self, folder, implementation):
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=implementation)
        with pytest.raises(ValueError, match="guide_bias"):
            model.generate(**models.prompts(), guide_bias=models.marks(), max_new_tokens=1)
        compare(guide.enable(model.eval()))

    def test_forward(self, folder):
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="guide")
        with pytest.raises(ValueError, match="guide_bias must go to an enabled model"):
            models.logits(model, models.prompts(), guide_bias=models.marks())

    def test_nothing_of_ours_is_saved(self, folder):
        assert "guide" not in (folder / "config.json").read_text()
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert model.config._attn_implementation == "sdpa"
        assert not guide.is_enabled(model)


# Where accelerate is to keep the parts of a model: one layer on disk.
PARTS = {
    "model.embed_tokens": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.norm": "cpu",
    "model.rotary_emb": "cpu",
    "lm_head": "cpu",
}


class TestOffloaded:
    """accelerate puts a forward of its own on every module."""

    accelerate = pytest.importorskip("accelerate")

    @pytest.mark.parametrize("order", ["enabled first", "enabled last"])
    @pytest.mark.parametrize("place", ["cpu", "disk", "parts"])
    def test_weights_elsewhere(self, order, place, tmp_path):
        model = models.make("llama")
        if order == "enabled first":
            guide.enable(model)
        if place == "cpu":
            self.accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        elif place == "disk":
            self.accelerate.disk_offload(model, str(tmp_path), torch.device("cpu"))
        else:
            self.accelerate.dispatch_model(
                model, PARTS, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True
            )
        if order == "enabled last":
            guide.enable(model)
        compare(model)

    @pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}, PARTS])
    def test_device_map(self, tmp_path, device_map):
        models.make("llama").save_pretrained(tmp_path)
        options = {"device_map": device_map}
        if device_map is PARTS:
            options["offload_folder"] = str(tmp_path / "weights")
        model = AutoModelForCausalLM.from_pretrained(
            tmp_path, attn_implementation="eager", **options
        )
        compare(guide.enable(model.eval()))

    def test_hooks_are_taken_away_again(self):
        """Together with the forward that named the steering."""
        model = guide.enable(models.make("llama"))
        self.accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        self.accelerate.hooks.remove_hook_from_submodules(model)
        compare(model)
        model = models.make("llama")
        self.accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        guide.enable(model)
        self.accelerate.hooks.remove_hook_from_submodules(model)
        compare(model)


class TestWrapped:
    def test_data_parallel_without_a_device(self):
        compare_forward(nn.DataParallel(guide.enable(models.make("llama"))))

    def test_averaged_weights(self):
        model = torch.optim.swa_utils.AveragedModel(guide.enable(models.make("llama")))
        compare_forward(model)

    def test_part_of_the_model(self):
        """The decoder without its head is not what was enabled."""
        model = guide.enable(models.make("llama"))
        with pytest.raises(ValueError, match="guide_bias must go to the model that was enabled"):
            model.model(**models.prompts(), guide_bias=models.marks())

    def test_shallow_copy_shares_everything(self):
        """Its hooks and methods are those of the original, and so is what they know."""
        model = guide.enable(models.make("llama"))
        compare_forward(copy.copy(model))

    def test_a_layer_of_another_model(self):
        """Put in after enable(): the bias does not reach it."""
        model = guide.enable(models.make("llama"))
        other = models.make("llama")
        other.set_attn_implementation("guide")
        model.model.layers[1] = other.model.layers[1]
        with pytest.raises(RuntimeError, match="guide_bias must reach all 2 attention layers"):
            models.logits(model, models.prompts(), guide_bias=models.marks())


def compare_forward(model):
    inputs, bias = models.prompts(), models.marks()
    wanted = models.reference_logits(models.shared("llama"), inputs, bias)
    found = models.logits(model, inputs, guide_bias=bias)
    models.assert_logits_close(found, wanted, inputs["attention_mask"])
