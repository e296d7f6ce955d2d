# SPDX-License-Identifier: MIT
"""Every keyword that a model hands to its attention function is understood, harmless or refused."""

import ast
import inspect
import re
from pathlib import Path

import models
import pytest
import torch
import transformers
from transformers.utils.generic import TransformersKwargs

import guide_ext.integration as guide
from guide_ext.integration.call.attention import guide_attention
from guide_ext.integration.call.keywords import HARMLESS, REFUSED

UNDERSTOOD = set(inspect.signature(guide_attention).parameters) - {"kwargs"}


def _call_at(text: str, start: int, behind_bracket: int) -> ast.Call:
    """Parse one call: all of transformers would take a quarter of a minute."""
    open_brackets, end = 1, behind_bracket
    while open_brackets:
        open_brackets += {"(": 1, ")": -1}.get(text[end], 0)
        end += 1
    node = ast.parse(text[start:end], mode="eval").body
    assert isinstance(node, ast.Call)
    return node


def handed_over() -> dict[str, str]:
    """Names that the models of transformers write at their calls of attention, with one of them."""
    found: dict[str, str] = dict.fromkeys(TransformersKwargs.__annotations__, "any model")
    for path in sorted(Path(transformers.__file__).parent.glob("models/*/modeling_*.py")):
        text = path.read_text(encoding="utf-8")
        for call in re.finditer(r"\battention_interface\(", text):
            node = _call_at(text, call.start(), call.end())
            found.update({key.arg: path.stem for key in node.keywords if key.arg})
    return found


def test_every_keyword_of_the_installed_transformers_is_decided():
    found = handed_over()
    assert len(found) > 20  # the scan finds calls at all
    assert {"indices", "block_indices", "s_aux", "position_bias"} <= set(found)
    decided = UNDERSTOOD | set(HARMLESS) | set(REFUSED)
    assert {name: where for name, where in found.items() if name not in decided} == {}


def test_no_keyword_is_decided_twice():
    assert not UNDERSTOOD & set(HARMLESS)
    assert not UNDERSTOOD & set(REFUSED)
    assert not set(HARMLESS) & set(REFUSED)
    assert all(HARMLESS.values())


def test_call_sites_have_the_name_that_the_scan_looks_for():
    """A model that calls attention by another name would be missed."""
    names = set()
    for path in Path(transformers.__file__).parent.glob("models/*/modeling_*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if "= ALL_ATTENTION_FUNCTIONS.get_interface(" in line:
                names.add(line.split("=")[0].split(":")[0].strip())
    assert names == {"attention_interface"}


@pytest.fixture(scope="module")
def model():
    return guide.enable(models.make("llama"))


class TestCall:
    """What is not understood is refused, steered or not, enabled or not."""

    @pytest.mark.parametrize(
        "name", ["something_new", *sorted(set(REFUSED) - {"sinks", "cache", "past_key_values"})]
    )
    @pytest.mark.parametrize("steered", [False, True])
    def test_refused(self, model, name, steered):
        extra = {"guide_bias": models.marks()} if steered else {}
        with pytest.raises(ValueError, match=rf"^{name} must be (None|False) under"):
            model(**models.prompts(), **extra, **{name: torch.tensor(True)})

    @pytest.mark.parametrize("name", ["something_new", *sorted(REFUSED)])
    def test_none_changes_nothing(self, model, name):
        inputs = models.prompts()
        with torch.no_grad():
            assert torch.equal(model(**inputs, **{name: None}).logits, model(**inputs).logits)

    def test_keywords_in_keywords(self, model):
        """As transformers' pipelines hand them on."""
        model(**models.prompts(), kwargs={"use_cache": True, "something_new": None})
        with pytest.raises(ValueError, match=r"^something_new must be None under"):
            model(**models.prompts(), kwargs={"something_new": 1})
        with pytest.raises(ValueError, match=r"^kwargs must be None under"):
            model(**models.prompts(), kwargs=1)

    @pytest.mark.parametrize("name", ["num_items_in_batch", "output_router_logits", "seq_idx"])
    def test_harmless(self, model, name):
        inputs = models.prompts()
        with torch.no_grad():
            assert torch.equal(model(**inputs, **{name: 3}).logits, model(**inputs).logits)

    def test_no_weights_are_asked_for(self, model):
        model(**models.prompts(), output_attentions=False)

    def test_model_that_was_not_enabled(self):
        model = models.make("llama")
        model.set_attn_implementation("guide")
        with pytest.raises(ValueError, match=r"something_new must be None .* LlamaAttention"):
            model(**models.prompts(), something_new=1)

    def test_refused_while_it_is_enabled(self):
        """A model that hands over what nobody reads is refused, and left as it was."""
        model = models.make("llama")
        for layer in model.model.layers:
            own = layer.self_attn.forward
            layer.self_attn.forward = lambda *a, own=own, **k: own(*a, **k, something_new=1)
        with pytest.raises(guide.UnsupportedModelError, match="something_new must be None"):
            guide.enable(model)
        assert model.config._attn_implementation == "eager"
