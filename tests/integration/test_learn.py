# SPDX-License-Identifier: MIT
"""A learned Δ: its likelihood, its steps, when it stops, its file, its command."""

import dataclasses
import doctest
import itertools
import json
from pathlib import Path

import models
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import guide_ext.integration as guide
from guide_ext.cli.app import app
from guide_ext.integration import learn
from guide_ext.integration.examples import Example
from guide_ext.integration.likelihood import log_likelihoods
from guide_ext.steering.steering import Steering

PAIRS = {
    "On Sunday, the singer draws the heavy book in the city.": (
        "La chanteuse dessine le livre dans la ville."
    ),
    "The thief paints the hammer in the museum.": "Le voleur peint le marteau dans le musée.",
    "The famous queen keeps the coat in the city. The queen talks to Lucas.": (
        "La reine garde le manteau dans la ville."
    ),
    "Every day, the young shepherd hides the heavy net in the beach.": (
        "Le berger cache le filet dans la plage."
    ),
}
EXAMPLES = [
    Example([{"role": "user", "content": f"<!!->Summarize in French<-!!>: {text}"}], (said,))
    for text, said in PAIRS.items()
]


@pytest.fixture(scope="module")
def loaded():
    return guide.load_embedded()


def table_of(seed):
    return torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)) + 1


@pytest.mark.parametrize("example", EXAMPLES)
def test_likelihoods_are_those_of_every_other_measurement(loaded, example):
    table = table_of(1)
    ways = Example(example.prompt, (*example.answers, "The", "a very long answer of other words"))
    with torch.no_grad():
        found = learn._likelihood(*loaded, ways, table)
    [wanted] = log_likelihoods(*loaded, ways.prompt, ways.answers, [Steering.by_head(table)])
    assert found.item() == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_the_first_steps_are_those_of_adam(loaded):
    """Beside torch's own optimiser, on the loss as the page states it."""
    model, tokenizer = loaded
    state = learn._State.begin((4, 4), 1.0)
    table = torch.full((4, 4), 1.0, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([table], lr=0.2)
    for chosen in (EXAMPLES[:3], EXAMPLES[1:]):
        learn._step(
            model, tokenizer, chosen, state, (4, 4), (4, 4),
            learning_rate=0.2, penalty=0.7, advance=lambda: None,
        )  # fmt: skip
        adam.zero_grad()
        likelihoods = [learn._likelihood(model, tokenizer, one, table.float()) for one in chosen]
        loss = 0.7 * (table - table.mean()).square().mean() - sum(likelihoods) / len(likelihoods)
        loss.backward()
        adam.step()
    torch.testing.assert_close(
        torch.tensor(state.table, dtype=torch.float64), table.detach().flatten(), rtol=1e-6, atol=0
    )


def test_what_is_learned_is_better_where_nothing_was_learned(loaded):
    # From a start that does harm, on examples that never chose anything.
    found = guide.learn_delta(
        *loaded, EXAMPLES[:3], start=9.0, rounds=12, learning_rate=1.0, penalty=0.0
    )
    assert found.held_out > found.at_start + 0.1
    assert (found.learned_from, found.judged_by) == (2, 1)
    steerings = [Steering.guide(9.0), found.steering()]
    before, after = log_likelihoods(*loaded, EXAMPLES[3].prompt, EXAMPLES[3].answers, steerings)
    assert after > before
    [again] = log_likelihoods(
        *loaded,
        *next(
            (one.prompt, one.answers)
            for one in EXAMPLES[:3]
            if one.name() == learn._halves(EXAMPLES[:3], 0.3, 0)[1][0].name()
        ),
        [found.steering()],
    )
    assert again == pytest.approx(found.held_out, abs=1e-4)


@pytest.mark.parametrize(("by", "different"), [("one", 1), ("layer", 4), ("head", None)])
def test_who_gets_a_number(loaded, by, different):
    found = guide.learn_delta(*loaded, EXAMPLES, by=by, start=9.0, rounds=2, penalty=0.0)
    assert found.rounds > 0
    numbers = {value for row in found.nats for value in row}
    assert len(numbers) == different if by != "head" else len(numbers) > 4
    if by == "layer":
        assert all(len(set(row)) == 1 for row in found.nats)


def test_a_penalty_draws_the_table_together(loaded):
    free, held = (
        torch.tensor(
            guide.learn_delta(
                *loaded, EXAMPLES, start=9.0, rounds=6, learning_rate=0.5, penalty=penalty
            ).nats
        )
        for penalty in (0.0, 100.0)
    )
    assert held.std() < 0.5 * free.std()


def test_it_stops_when_nothing_gets_better_and_returns_the_best(loaded, monkeypatch):
    given = iter([-3.0, -2.0, -2.5, -1.0, -1.5, -1.25, -0.5])
    rounds = []
    real = learn._State.judge

    def judge(state, loss):
        real(state, -next(given))
        rounds.append(list(state.table))

    monkeypatch.setattr(learn._State, "judge", judge)
    found = guide.learn_delta(*loaded, EXAMPLES[:2], rounds=20, patience=2)
    # All are worse than the start, which is near 0: the patience ends it.
    assert found.rounds == 0
    assert len(rounds) == 2
    assert {value for row in found.nats for value in row} == {1.0}

    given, rounds[:] = iter([-0.04, -0.01, -0.03, -0.02, -0.001]), []
    found = guide.learn_delta(*loaded, EXAMPLES[:2], start=5.0, rounds=20, patience=2)
    assert found.rounds == 2
    assert len(rounds) == 4
    assert rounds[1] == pytest.approx([v for row in found.nats for v in row], abs=2e-6)


def test_a_call_goes_on_where_it_was_interrupted(loaded, tmp_path, monkeypatch):
    how = {"start": 9.0, "rounds": 4, "batch_size": 2, "patience": 9}
    wanted = guide.learn_delta(*loaded, EXAMPLES, **how)
    saved, calls, real = tmp_path / "state.json", [], learn._step

    def stopping(*args, **kwargs):
        calls.append(args)
        if len(calls) == 4:  # in the middle of a round
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(learn, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        guide.learn_delta(*loaded, EXAMPLES, saved=saved, **how)
    told = []
    found = guide.learn_delta(
        *loaded, EXAMPLES, saved=saved, on_progress=lambda *counts: told.append(counts), **how
    )
    assert found == wanted
    assert len(calls) == 4 + 3 * 2  # of the round that was interrupted, and of two more
    assert told[-1][0] == told[-1][1]
    assert all(one[0] < two[0] for one, two in itertools.pairwise(told))
    longer = guide.learn_delta(*loaded, EXAMPLES, saved=saved, **{**how, "rounds": 6})
    assert longer == guide.learn_delta(*loaded, EXAMPLES, **{**how, "rounds": 6})
    with pytest.raises(ValueError, match="saved must be of the same model, examples and settings"):
        guide.learn_delta(*loaded, EXAMPLES[:3], saved=saved, **how)
    with pytest.raises(ValueError, match="saved must be of the same model, examples and settings"):
        guide.learn_delta(*loaded, EXAMPLES, saved=saved, penalty=0.5, **how)
    saved.write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match="saved must be a file that this function wrote"):
        guide.learn_delta(*loaded, EXAMPLES, saved=saved, **how)


def test_the_model_stays_as_it_was(monkeypatch):
    model, tokenizer = guide.load_embedded()
    model.train()
    modes, real = [], learn._likelihood
    monkeypatch.setattr(
        learn, "_likelihood", lambda *given: (modes.append(model.training), real(*given))[1]
    )
    model.lm_head.weight.requires_grad_(False)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    wanted = [weight.requires_grad for weight in model.parameters()]
    guide.learn_delta(model, tokenizer, EXAMPLES[:2], rounds=1)
    assert model.training
    assert not any(modes)  # dropout would make a gradient of noise
    assert [weight.requires_grad for weight in model.parameters()] == wanted
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_it_learns_inside_no_grad(loaded):
    wanted = guide.learn_delta(*loaded, EXAMPLES[:2], rounds=1, start=9.0)
    with torch.no_grad():
        assert guide.learn_delta(*loaded, EXAMPLES[:2], rounds=1, start=9.0) == wanted


@pytest.mark.parametrize(
    ("examples", "how", "message"),
    [
        (EXAMPLES[:1], {}, "examples must be at least two"),
        ([], {}, "examples must be at least one"),
        ([*EXAMPLES, Example("no mark", ("a",))], {}, "must have a mark in their prompts"),
        ([*EXAMPLES, Example("<!2->a<-!>", ("b",))], {}, "got one that states its own"),
        ([*EXAMPLES, Example("<!!->a<-!!>", ())], {}, "must have a list of answers"),
        (
            [*EXAMPLES, Example("<!!->the<-!!> cat" * 600, ("b",))],
            {"rounds": 1},
            "must fit into the",
        ),
        (EXAMPLES, {"by": "token"}, "by must be 'head', 'layer' or 'one'"),
        (EXAMPLES, {"start": float("nan")}, "start must be a finite number"),
        (EXAMPLES, {"rounds": 0}, "rounds must be a whole number from 1"),
        (EXAMPLES, {"patience": 1.5}, "patience must be a whole number from 1"),
        (EXAMPLES, {"held_out": 1.0}, "held_out must be a number above 0 and below 1"),
        (EXAMPLES, {"learning_rate": 0.0}, "learning_rate must be a finite number above 0"),
        (EXAMPLES, {"penalty": -1.0}, "penalty must be a finite number from 0"),
    ],
)
def test_what_does_not_fit(loaded, examples, how, message):
    with pytest.raises(ValueError, match=message):
        guide.learn_delta(*loaded, examples, **how)


def test_a_model_without_strengths():
    model = guide.enable(models.make("bloom"))
    with pytest.raises(ValueError, match="must go to a model that uses transformers' attention"):
        guide.learn_delta(model, guide.load_embedded()[1], EXAMPLES)


def test_files(loaded, tmp_path):
    found = guide.learn_delta(*loaded, EXAMPLES, start=9.0, rounds=1)
    path = tmp_path / "learned.safetensors"
    found.save(path)
    assert guide.LearnedDelta.load(path) == found
    model, tokenizer = loaded
    inputs = guide.encode(model, tokenizer, EXAMPLES[0].prompt, steering=found.steering())
    assert torch.equal(inputs["guide_strength"][0], torch.tensor(found.nats))
    assert inputs["guide_bias"].max() == 1.0
    with pytest.raises(ValueError, match="marks must have levels, such as <!!->, under a steering"):
        guide.encode(model, tokenizer, "<!2->a<-!>", steering=found.steering())
    other = dataclasses.replace(found, nats=found.nats[:3])
    with pytest.raises(
        ValueError, match=r"table must be \[layers, heads\] = \[4, 4\], as this mod"
    ):
        guide.encode(model, tokenizer, EXAMPLES[0].prompt, steering=other.steering())
    with pytest.raises(FileNotFoundError):
        guide.LearnedDelta.load(tmp_path / "none")
    foreign = tmp_path / "foreign.safetensors"
    for name, content in {"text": b"no table", "cut": path.read_bytes()[:50]}.items():
        (tmp_path / name).write_bytes(content)
    save_file({"nats": torch.ones(4, 4)}, foreign)
    broken = tmp_path / "broken"
    dataclasses.replace(found, held_out=float("nan")).save(broken)
    for file in (tmp_path / "text", tmp_path / "cut", foreign, broken):
        with pytest.raises(ValueError, match="path must be a file that learn_delta"):
            guide.LearnedDelta.load(file)


@pytest.mark.parametrize(
    "table", [[], [[]], [[1.0], [1.0, 2.0]], [[float("inf")]], "ab", ["ab"], [1.0], torch.ones(2)]
)
def test_tables_that_are_none(table):
    with pytest.raises(ValueError, match="table"):
        Steering.by_head(table)


def test_the_page_runs():
    page = Path(__file__).parents[2] / "docs" / "learning.md"
    failed, attempted = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert failed == 0
    assert attempted > 20


def test_command(tmp_path):
    lines = [{"prompt": one.prompt[0]["content"], "answers": one.answers} for one in EXAMPLES]
    file, out = tmp_path / "examples.jsonl", tmp_path / "learned.safetensors"
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    run = CliRunner().invoke
    picture = tmp_path / "learned.png"
    arguments = ["learn", str(file), "-o", str(out), "--rounds", "2", "--start", "1.5"]
    result = run(app, [*arguments, "--picture", str(picture)])
    assert result.exit_code == 0, result.output
    assert "1 examples that were held out" in result.output
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".jsonl", ".png", ".safetensors"]
    found = guide.LearnedDelta.load(out)
    again = json.loads(run(app, [*arguments, "--json"]).stdout)
    assert again["nats"] == [list(row) for row in found.nats]

    steer = ["generate", lines[0]["prompt"], "--learned", str(out)]
    record = json.loads(run(app, [*steer, "--json"]).stdout)
    assert record["learned"] == str(out)
    assert record["delta"] is None
    model, tokenizer = guide.load_embedded()
    prompt = guide.as_prompt(tokenizer, lines[0]["prompt"])
    [wanted] = guide.complete(
        model, tokenizer, [prompt], steering=found.steering(), max_new_tokens=200
    )
    assert record["guided"] == wanted.strip()
    for option in (["--delta", "2"], ["--layers", "1"], ["--heads", str(file)]):
        result = run(app, [*steer, *option])
        assert result.exit_code == 2
        said = " ".join(result.output.split())
        assert f"{option[0]} must be left out with --learned" in said
    assert run(app, ["learn", str(file), "-o", str(out), "--picture", "x.gif"]).exit_code == 2


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"start": "a"}, "start must be a finite number"),
        ({"start": True}, "start must be a finite number"),
        ({"penalty": None}, "penalty must be a finite number"),
        ({"learning_rate": True}, "learning_rate must be a finite number"),
        ({"held_out": "x"}, "held_out must be a number above 0"),
        ({"seed": None}, "seed must be a whole number of 64 bits"),
        ({"batch_size": True}, "batch_size must be a whole number"),
    ],
)
def test_options_of_other_types(loaded, how, message):
    with pytest.raises(ValueError, match=message):
        guide.learn_delta(*loaded, EXAMPLES, **how)


def test_a_mark_of_its_own_delta_of_0_is_one_too(loaded):
    example = Example("<!!->a<-!!> <!0.0->b<-!>", ("c",))
    with pytest.raises(ValueError, match="got one that states its own in example 4"):
        guide.learn_delta(*loaded, [*EXAMPLES, example])


def test_it_learns_in_inference_mode(loaded):
    wanted = guide.learn_delta(*loaded, EXAMPLES[:2], rounds=1, start=9.0)
    with torch.inference_mode():
        assert guide.learn_delta(*loaded, EXAMPLES[:2], rounds=1, start=9.0) == wanted
