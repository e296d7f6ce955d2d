# SPDX-License-Identifier: MIT
"""The record of Influence of two runs, plain and guided, as it is measured."""

import json
import re

import numpy as np
import pytest
import torch
from pages import DOCUMENT, STEERED, TWO_GROUPS
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from guide_ext import integration as guide
from guide_ext.integration.compare import END_TOKENS, check_marked, measure_prompt, token_texts

pytest_plugins = ["influence_record"]


def test_the_record_survives_json_and_fits_together(record):
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["groups"] == ["rule", "place"]
    prompt = record["prompt"]
    assert len(prompt["tokens"]) == len(prompt["nats"]) == len(prompt["groups"]["rule"])
    assert [run["name"] for run in record["runs"]] == ["plain", "guided"]
    for run in record["runs"]:
        length = len(prompt["tokens"]) + len(run["tokens"])
        assert np.array(run["values"], dtype=float).shape == (2, record["layers"] + 1, length)
        texts = [token["text"] for token in run["tokens"] if not token["special"]]
        assert "".join(texts).strip() == run["answer"]
    text = "".join(token["text"] for token in prompt["tokens"])
    assert text == prompt["text"]


def test_the_record_holds_what_was_measured(embedded, record):
    model, tokenizer = embedded
    inputs = guide.encode(model, tokenizer, guide.as_prompt(tokenizer, TWO_GROUPS), delta=2.0)
    tokens = inputs["input_ids"].shape[1]
    for run in record["runs"]:
        if run["name"] == "plain":
            given = {n: v for n, v in inputs.items() if n not in ("guide_bias", "guide_strength")}
        else:
            given = inputs
        sequences, measured = guide.generate_with_influence(
            model, given, groups=inputs.groups, max_new_tokens=60, do_sample=False
        )
        values = np.array(run["values"], dtype=float)
        expected = measured.values[0].transpose(0, 1).numpy()
        assert np.abs(values[:, :, :-1] - expected).max() <= 0.5000001e-6  # six digits
        assert np.isnan(values[:, :, -1]).all()
        assert sequences.shape[1] == values.shape[2]
        last = measured.values[0, -1]
        for index, row in enumerate(run["summary"]):
            end = last[index, tokens - END_TOKENS : tokens].mean().item()
            assert row["end_of_prompt"] == pytest.approx(end, abs=1e-6)
            assert row["answer"] == pytest.approx(last[index, tokens:].mean().item(), abs=1e-6)


def test_plain_steers_nothing_not_even_a_stated_strength(embedded):
    model, tokenizer = embedded
    found = measure_prompt(model, tokenizer, f"<!9->Summarize<-!> {DOCUMENT}", max_new_tokens=3)
    unmarked = f"<?->Summarize<-?> {DOCUMENT}"
    other = measure_prompt(model, tokenizer, unmarked, max_new_tokens=3)
    assert found["groups"] == other["groups"] == ["marked"]
    assert found["runs"][0] == other["runs"][0]
    assert [run["name"] for run in other["runs"]] == ["plain"]
    assert found["runs"][1]["values"] != found["runs"][0]["values"]


def test_steered_text_is_measured_where_no_tag_says_what(embedded):
    model, tokenizer = embedded
    steered = measure_prompt(model, tokenizer, STEERED, max_new_tokens=2)
    both = STEERED.replace("<!!->", "<?-><!!->").replace("<-!!>", "<-!!><-?>")
    named = measure_prompt(model, tokenizer, both, max_new_tokens=2)
    assert steered == named


def test_sampling_repeats_and_leaves_the_random_state_alone(embedded):
    model, tokenizer = embedded
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    options = {"temperature": 1.5, "seed": 3, "max_new_tokens": 8}
    first = measure_prompt(model, tokenizer, STEERED, **options)
    assert torch.equal(torch.rand(3), expected)
    assert measure_prompt(model, tokenizer, STEERED, **options) == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "best"}, "form must be one of 'paper'"),
        ({"delta": float("nan")}, "delta must be"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number from 1, got 0"),
        ({"temperature": -1.0}, "temperature must be 0"),
        ({"seed": 0.5}, "seed must be a whole number"),
        ({"prompt": DOCUMENT}, "prompt must mark the text whose Influence is wanted"),
        ({"prompt": "<?->word<-?>" + " fish" * 2000}, "fewer tokens than the 1024 positions"),
    ],
)
def test_bad_arguments_are_named(embedded, options, message):
    options = {"prompt": STEERED, **options}
    with pytest.raises(ValueError, match=re.escape(message)):
        measure_prompt(*embedded, **options)


def test_check_marked():
    check_marked(None, "<!->a<-!>")
    with pytest.raises(ValueError, match="got no mark"):
        check_marked("a", None)


def test_texts_of_tokens_join_to_the_text(embedded):
    _, tokenizer = embedded
    text = "déjà-vu: 東京 👩‍🚀 naïve\n\n  x"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert "".join(token_texts(tokenizer, ids)) == text
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    plain = PreTrainedTokenizerFast(tokenizer_object=words)
    assert token_texts(plain, [1, 2, 1]) == ["a", " b", " a"]
