# SPDX-License-Identifier: MIT
"""Both answers in one batch: the record of two runs of their own, and every token as it comes."""

import numpy as np
import pytest
from pages import STEERED, TWO_GROUPS
from side_by_side_records import assert_same, values

import guide_ext.integration as guide
from guide_ext.integration.compare import measure_prompt
from guide_ext.integration.side_by_side import measure_side_by_side

ENDS_SOONER = "<!!->Summarize in French<-!!>\nThe cat sleeps."


@pytest.fixture(scope="module")
def loaded():
    return guide.load_embedded()


CASES = {
    "greedy": (STEERED, {"max_new_tokens": 60}),
    "cut": (STEERED, {"max_new_tokens": 3}),
    "one token": (STEERED, {"max_new_tokens": 1}),
    "two groups": (TWO_GROUPS, {}),
    "sampled": (STEERED, {"temperature": 1.3, "seed": 7}),
    "one ends sooner": (ENDS_SOONER, {"delta": 6.0}),
    "exact": (STEERED, {"form": "exact"}),
    "authors": (STEERED, {"form": "authors"}),
    "plain alone": ("<?->Summarize in French<-?>\nThe cat sleeps.", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_equal_to_one_after_the_other(loaded, case):
    text, options = CASES[case]
    prompt = guide.as_prompt(loaded[1], text)
    told = []
    found = measure_side_by_side(
        *loaded, prompt, model_name="embedded", on_step=told.append, **options
    )
    assert_same(found, measure_prompt(*loaded, prompt, model_name="embedded", **options))
    for run in found["runs"]:
        own = [step for step in told if step.run == run["name"]]
        assert [step.token for step in own] == run["tokens"]
        ended = run["tokens"][-1]["special"]
        assert [step.reason for step in own] == [None] * (len(own) - 1) + [
            "stop" if ended else "length"
        ]
        # Every step brings what was read for its token: together all but the last token.
        joined = np.concatenate([step.values.transpose(0, 1).numpy() for step in own], -1)
        assert np.allclose(joined, values(run)[..., :-1], atol=6e-7)
        assert joined.shape[-1] == values(run).shape[-1] - 1
        assert own[0].values.shape[-1] == len(found["prompt"]["tokens"])
    if case == "one ends sooner":
        assert len(found["runs"][0]["tokens"]) != len(found["runs"][1]["tokens"])
    names = [step.run for step in told]
    if len(found["runs"]) == 2:
        assert names[:2] == ["plain", "guided"]


def test_how_likely_the_tokens_are(loaded):
    """Beside the likelihood of the tokens that were written, under the steering of each run."""
    from guide_ext.integration.likelihood import likelihoods_of_rows

    prompt = guide.as_prompt(loaded[1], STEERED)
    told = []
    measure_side_by_side(*loaded, prompt, delta=2.0, max_new_tokens=8, on_step=told.append)
    for name, delta in (("plain", 0.0), ("guided", 2.0)):
        own = [step for step in told if step.run == name]
        inputs = guide.encode(*loaded, [prompt], delta=delta)
        inputs.pop("guide_seed", None)
        (wanted,) = likelihoods_of_rows(loaded[0], inputs, [[s.token["id"] for s in own]])
        assert sum(step.logprob for step in own) == pytest.approx(wanted, abs=1e-3)


def test_errors(loaded, monkeypatch):
    model, tokenizer = loaded
    with pytest.raises(ValueError, match="prompt must mark the text"):
        measure_side_by_side(model, tokenizer, "Hi")
    with pytest.raises(ValueError, match="max_new_tokens must be"):
        measure_side_by_side(model, tokenizer, STEERED, max_new_tokens=0)
    monkeypatch.setattr(model.generation_config, "stop_strings", ["END"])
    with pytest.raises(ValueError, match="must end texts by tokens"):
        measure_side_by_side(model, tokenizer, STEERED)
