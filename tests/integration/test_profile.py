# SPDX-License-Identifier: MIT
"""What each head does to the answers of examples: measured rightly, saved, and gone on with."""

import json
import math

import models
import pytest
import torch
from typer.testing import CliRunner

import guide_ext.integration as guide
from guide_ext.cli.app import app
from guide_ext.integration import profile
from guide_ext.integration.examples import Example
from guide_ext.integration.likelihood import log_likelihoods
from guide_ext.steering.steering import Steering

EXAMPLES = [
    Example([{"role": "user", "content": f"<!!->Summarize in French<-!!>: {text}"}], (answer, "Le"))
    for text, answer in (("The cat sleeps.", "Le chat dort."), ("The dog eats.", "Le chien mange."))
]


@pytest.fixture(scope="module")
def loaded():
    return guide.load_embedded()


def test_gains_are_those_of_each_head_alone(loaded):
    found = guide.profile_heads(*loaded, EXAMPLES, delta=1.5)
    alone = Steering.guide(1.5, heads={2: [1]})
    plain, everywhere, one = (
        math.fsum(
            log_likelihoods(*loaded, example.prompt, example.answers, [steering])[0]
            for example in EXAMPLES
        )
        / len(EXAMPLES)
        for steering in (Steering.guide(0.0), Steering.guide(1.5), alone)
    )
    assert found.plain == pytest.approx(plain, abs=1e-3)
    assert found.gain_everywhere == pytest.approx(everywhere - plain, abs=1e-3)
    assert found.scores[2][1] == pytest.approx(one - plain, abs=1e-3)
    assert (len(found.scores), len(found.scores[0]), found.examples) == (4, 4, 2)


def test_attention_is_that_of_eager_models(loaded):
    model, tokenizer = loaded
    found = guide.profile_heads(*loaded, EXAMPLES, by="attention")
    assert found.plain is None
    plain = [guide.encode(model, tokenizer, example.prompt) for example in EXAMPLES]
    shares = []
    guide.disable(model).set_attn_implementation("eager")
    try:
        for inputs in plain:
            marked = inputs.pop("guide_bias")[0] != 0
            with torch.no_grad():
                weights = model(**inputs, output_attentions=True).attentions
            shares.append(torch.stack([layer[0, :, -1, marked].sum(-1) for layer in weights]))
    finally:
        guide.enable(model)
    wanted = torch.stack(shares).mean(0)
    # Scores are rounded to four decimals.
    torch.testing.assert_close(torch.tensor(found.scores), wanted, atol=1e-4, rtol=0)


def test_the_best_heads_and_their_steering(loaded):
    found = guide.profile_heads(*loaded, EXAMPLES[:1])
    scores = {
        (layer, head): score
        for layer, row in enumerate(found.scores)
        for head, score in enumerate(row)
    }
    assert found.best(16) == tuple(sorted(scores, key=lambda place: (-scores[place], place)))
    assert found.best() == found.best(16)[:2]
    steering = found.steering(keep=3)
    assert steering.delta_mid == 2.0
    chosen = {(layer, head) for layer, heads in steering.heads_by_layer for head in heads}
    assert chosen == set(found.best(3))
    assert found.steering(0.5).delta_mid == 0.5
    for keep, message in ((0, "whole number from 1"), (17, "at most the model's 16 heads")):
        with pytest.raises(ValueError, match=message):
            found.best(keep)


@pytest.mark.parametrize("by", ["gain", "attention"])
def test_a_call_goes_on_where_it_was_interrupted(loaded, tmp_path, monkeypatch, by):
    wanted = guide.profile_heads(*loaded, EXAMPLES, by=by)
    saved = tmp_path / "rows.json"
    name = "log_likelihoods" if by == "gain" else "_attention"
    real, calls = getattr(profile, name), []

    def stopping(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(profile, name, stopping)
    with pytest.raises(KeyboardInterrupt):
        guide.profile_heads(*loaded, EXAMPLES, by=by, saved=saved)
    told = []
    found = guide.profile_heads(
        *loaded, EXAMPLES, by=by, saved=saved, on_progress=lambda *counts: told.append(counts)
    )
    assert found == wanted
    assert len(calls) == 3  # the first example was not asked again
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1]
    assert guide.profile_heads(*loaded, EXAMPLES, by=by, saved=saved) == wanted
    assert len(calls) == 3
    with pytest.raises(ValueError, match="saved must be of the same model, by and delta"):
        guide.profile_heads(*loaded, EXAMPLES, by=by, delta=1.0, saved=saved)
    other, tokenizer = guide.load_embedded()
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight.mul_(1.01)
    with pytest.raises(ValueError, match="saved must be of the same model"):
        guide.profile_heads(other, tokenizer, EXAMPLES, by=by, saved=saved)
    saved.write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match="saved must be a file that this function wrote"):
        guide.profile_heads(*loaded, EXAMPLES, by=by, saved=saved)


@pytest.mark.parametrize(
    ("examples", "how", "message"),
    [
        ([], {}, "examples must be at least one"),
        ([Example("no mark", ("a",))], {}, "must have a mark in their prompts, got none in exam"),
        ([Example("<!!->a<-!!>", ())], {}, "must have a list of answers"),
        ([Example("<!2->a<-!>", ("b",))], {}, "got one that states its own in example 0"),
        ([Example("<!!->a<-!!>", "abc")], {}, "must have a list of answers"),
        (EXAMPLES, {"by": "mass"}, "by must be 'gain' or 'attention'"),
        (EXAMPLES, {"delta": 0.0}, "delta must be a finite number of nats and not 0"),
    ],
)
def test_what_does_not_fit(loaded, examples, how, message):
    with pytest.raises(ValueError, match=message):
        guide.profile_heads(*loaded, examples, **how)


def test_a_model_without_strengths():
    model = guide.enable(models.make("bloom"))
    with pytest.raises(ValueError, match="must go to a model that uses transformers' attention"):
        guide.profile_heads(model, guide.load_embedded()[1], EXAMPLES)


def test_command(tmp_path):
    lines = [
        {"prompt": example.prompt[0]["content"], "answers": example.answers} for example in EXAMPLES
    ]
    file, out = tmp_path / "examples.jsonl", tmp_path / "heads.json"
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    result = CliRunner().invoke(app, ["profile", str(file), "-o", str(out), "--keep", "3"])
    assert result.exit_code == 0, result.output
    assert "3 of 16 heads, by gain, of 2 examples" in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["examples.jsonl", "heads.json"]
    steer = ["generate", lines[0]["prompt"], "--heads", str(out), "--json"]
    record = json.loads(CliRunner().invoke(app, steer).stdout)
    assert record["heads"] == json.loads(out.read_text("utf-8"))["heads"]
    file.write_text('{"prompt": "a"}', encoding="utf-8")
    result = CliRunner().invoke(app, ["profile", str(file), "-o", str(out)])
    assert result.exit_code == 2
    assert "got another in line 1" in " ".join(result.output.split())
