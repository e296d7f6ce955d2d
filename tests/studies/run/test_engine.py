# SPDX-License-Identifier: MIT
"""The prompts of cells, and what the model is told of a condition."""

import dataclasses
import functools
import itertools
import math
import sys

import pytest

from guide_ext import integration
from guide_ext.embedded.world import Style
from guide_ext.influence.forms import FORMS
from guide_ext.integration.influence.measure import influence_in_forms
from guide_ext.steering.steering import Steering
from guide_ext.studies.cells import ANSWER, Cell, Condition, Decoding, Row, Where
from guide_ext.studies.measurement import CALIBRATED, INFLUENCE
from guide_ext.studies.plan import RunSettings
from guide_ext.studies.registry import TASKS
from guide_ext.studies.run import projections as learning
from guide_ext.studies.run.engine import TransformersEngine, marked_prompt, steering_of

ROW = Row("a:1", "french", "", "Summarize in French", " The cat.", 3, (0, 500), "Le chat.")


@pytest.mark.parametrize(
    ("style", "marked"),
    [
        (Style.UPPER, "SUMMARIZE IN FRENCH"),
        (Style.IMPORTANT, "Important: Summarize in French"),
    ],
)
def test_baselines_are_written_so(style, marked):
    found = marked_prompt(Cell(ANSWER, ROW, Condition(style)))
    assert found.text == f"{marked} The cat."
    assert [(span.start, span.end, span.delta) for span in found.spans] == [(0, len(marked), 0.0)]


# What follows is no text of the embedded world. The model rambles, so that a small change of its
# attention changes what it writes.
_HORSE = "Nobody knows the name of the horse. The book of the doctor is old and blue. "
_AUNT = "My aunt buys nine apples and a lamp. The secret word of Leo is rice. "
_KING = "Where is the king of France?"
_LAMP, _BOOK = "nine apples and a lamp.", "old and blue."
ROWS = (
    Row("a:1", "needle", _HORSE, _KING, f" My aunt buys {_LAMP}", 30, (0, 500),
        parts=(("other", _LAMP),)),
    Row("a:2", "needle", _AUNT, _KING, f" The book of the doctor is {_BOOK}", 30, (0, 500),
        parts=(("other", _BOOK),)),
)  # fmt: skip
measure = sys.modules[influence_in_forms.__module__]  # a function of its name hides its folder
HEADS = ((0, 1), (0, 2), (2, 0), (2, 3))
BY_LAYER = {0: [1, 2], 2: [0, 3]}
DELTA, TOKENS = 5.0, 12
SETTINGS = RunSettings(studies=("needle",), heads=HEADS)
_THE_MARKED = "{before}<!!->{marked}<-!!>{after}"
_THE_OTHER = "{before}{marked}{until}<!!->{other}<-!!>"
_BOTH = "{before}<!!->{marked}<-!!>{until}<!!->{other}<-!!>"
# The prompt of each condition, and what its level-2 marks mean: said without the code of the runs.
WAYS = {
    Condition(): (_THE_MARKED, {"delta": 0.0}),
    Condition(delta=1.0): (_THE_MARKED, {"delta": 1.0}),
    Condition(delta=DELTA): (_THE_MARKED, {"delta": DELTA}),
    Condition(delta=DELTA, parts=("other",)): (_THE_OTHER, {"delta": DELTA}),
    Condition(delta=DELTA, parts=("marked", "other")): (_BOTH, {"delta": DELTA}),
    Condition(Style.UPPER): ("{before}{upper}{after}", {}),
    Condition(Style.IMPORTANT): ("{before}Important: {marked}{after}", {}),
    Condition(delta=DELTA, where=Where.EARLY): (
        _THE_MARKED, {"steering": Steering.guide(DELTA, layers=[0])},
    ),
    Condition(delta=DELTA, where=Where.MIDDLE): (
        _THE_MARKED, {"steering": Steering.guide(DELTA, layers=[1, 2])},
    ),
    Condition(delta=DELTA, where=Where.LATE): (
        _THE_MARKED, {"steering": Steering.guide(DELTA, layers=[3])},
    ),
    Condition(delta=DELTA, where=Where.HEADS): (
        _THE_MARKED, {"steering": Steering.guide(DELTA, heads=BY_LAYER)},
    ),
    # PASTA plays the rest of the prompt down by as many nats.
    Condition(delta=DELTA, where=Where.PASTA): (
        _THE_MARKED,
        {"steering": Steering(None, on_others=-DELTA, heads_by_layer=((0, (1, 2)), (2, (0, 3))))},
    ),
    Condition(share=0.2): (_THE_MARKED, {"min_share": 0.2}),
    Condition(share=0.5): (_THE_MARKED, {"min_share": 0.5}),
    Condition(delta=3.0, guidance=1.5): (
        _THE_MARKED, {"multiplier": math.exp(3.0), "guidance_scale": 1.5},
    ),
    Condition(delta=-3.0, guidance=4.0): (
        _THE_MARKED, {"multiplier": math.exp(-3.0), "guidance_scale": 4.0},
    ),
    Condition(gain=4.0): (_THE_MARKED, {"positive": 4.0}),
    Condition(gain=8.0): (_THE_MARKED, {"positive": 8.0}),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def few_documents():
    """SEKA's projections are learned twice, by the engine and here: from few documents, soon."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "_DOCUMENTS", 24)
        yield


@pytest.fixture(scope="module")
def embedded():
    return integration.load_embedded()


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return TransformersEngine(SETTINGS, tmp_path_factory.mktemp("run"))


@functools.cache
def projections():
    return learning.learned_projections(SETTINGS, *integration.load_embedded())


def asked(row, condition, embedded):
    """Return what `generate` writes for one prompt alone."""
    model, tokenizer = embedded
    text, meaning = WAYS[condition]
    other = dict(row.parts)["other"]
    content = text.format(
        before=row.before, marked=row.marked, upper=row.marked.upper(), after=row.after,
        until=row.after.removesuffix(other), other=other,
    )  # fmt: skip
    prompt = [{"role": "user", "content": content}]
    if "guidance_scale" in meaning:
        [answer] = integration.highlight(
            model, tokenizer, [prompt], max_new_tokens=TOKENS, **meaning
        )
        return answer
    if "positive" in meaning:
        [answer] = integration.seka(
            model, tokenizer, [prompt], projections(), max_new_tokens=TOKENS, **meaning
        )
        return answer
    inputs = integration.encode(model, tokenizer, [prompt], **meaning)
    tokens = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    return tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_a_condition_reaches_the_model_whatever_runs_beside_it(engine, embedded):
    cells = [
        Cell(ANSWER, row, condition, 0, Decoding(TOKENS)) for row in ROWS for condition in WAYS
    ]
    found = {}
    for common in {condition.of_a_batch for condition in WAYS}:
        batch = [cell for cell in cells if cell.condition.of_a_batch == common]
        for cell, result in zip(batch, engine.run(batch), strict=True):
            found[cell.row.id, cell.condition] = result["text"]
    assert found == {
        (row.id, condition): asked(row, condition, embedded) for row in ROWS for condition in WAYS
    }
    answers = {condition: [found[row.id, condition] for row in ROWS] for condition in WAYS}
    for one, other in itertools.combinations(WAYS, 2):
        assert answers[one] != answers[other], (one.name, other.name)


def test_an_answer_is_cut_where_its_decoding_says(engine):
    long, short = (
        engine.run([Cell(ANSWER, ROWS[0], Condition(delta=DELTA), 0, Decoding(tokens))])[0]
        for tokens in (TOKENS, 3)
    )
    assert (long["new_tokens"], short["new_tokens"]) == (8, 3)  # with 8, it is at its end
    assert long["text"].startswith(short["text"])


@pytest.mark.parametrize("layers", [3, 4, 6, 16, 32])
def test_thirds_of_the_layers_are_all_of_them_in_order(layers):
    thirds = [
        steering_of(Condition(delta=2.0, where=where), layers).layers
        for where in (Where.EARLY, Where.MIDDLE, Where.LATE)
    ]
    assert [layer for third in thirds for layer in third] == list(range(layers))
    assert max(map(len, thirds)) - min(map(len, thirds)) <= 1


def test_chosen_heads_must_be_given():
    for where in (Where.HEADS, Where.PASTA):
        with pytest.raises(ValueError, match="heads must be given for the condition 'Δ = 2, "):
            steering_of(Condition(delta=2.0, where=where), 4)


def test_measured_influence_is_that_of_the_marked_part_in_every_form(engine, embedded):
    model, tokenizer = embedded
    results = engine.run([Cell(INFLUENCE.kind, row, Condition()) for row in ROWS])
    for row, result in zip(ROWS, results, strict=True):
        content = f"{row.before}<?->{row.marked}<-?>{row.after}"
        inputs = integration.encode(model, tokenizer, [{"role": "user", "content": content}])
        assert [*result["levels"]] == [*FORMS]
        for form, levels in result["levels"].items():
            values = integration.influence(model, inputs, form=form).values[0, :, 0]
            end = values[:, -TASKS[row.task].end_tokens :].mean(1).tolist()
            assert levels == pytest.approx(end, abs=1e-5)


def test_a_tiny_influence_keeps_its_digits(engine, monkeypatch):
    """In a deep model, other forms than the paper's end in millionths."""
    forms = measure.influence_in_forms

    def millionths(*arguments):
        found = forms(*arguments)
        return {
            form: dataclasses.replace(one, values=one.values / 1e6) for form, one in found.items()
        }

    cells = [Cell(INFLUENCE.kind, ROWS[0], Condition())]
    (usual,) = engine.run(cells)
    monkeypatch.setattr(measure, "influence_in_forms", millionths)
    (tiny,) = engine.run(cells)
    for form, levels in usual["levels"].items():
        assert tiny["levels"][form] == pytest.approx([level / 1e6 for level in levels], rel=1e-5)


def test_a_calibrated_delta_is_that_of_the_marked_part(engine, embedded):
    model, tokenizer = embedded
    results = engine.run([Cell(CALIBRATED.kind, row, Condition()) for row in ROWS])
    for row, result in zip(ROWS, results, strict=True):
        content = f"{row.before}<!!->{row.marked}<-!!>{row.after}"
        wanted = {
            str(target): integration.calibrate(
                model, tokenizer, [{"role": "user", "content": content}], target=target,
                last_tokens=TASKS[row.task].end_tokens, min_delta=lowest, tolerance=0.05,
            ).delta
            for target, lowest in (("uppercase", -8.0), (1.5, 0.0), (2.0, 0.0), (3.0, 0.0))
        }  # fmt: skip
        assert result == {"deltas": pytest.approx(wanted, abs=1e-6)}
        assert 0 < wanted["1.5"] < wanted["2.0"] < wanted["3.0"]


def test_a_target_that_no_delta_meets_costs_the_others_nothing(engine):
    # Three times its Influence is above 1.
    alone = dataclasses.replace(ROWS[0], before="", after="")
    cells = [Cell(CALIBRATED.kind, row, Condition()) for row in (ROWS[1], alone, ROWS[1])]
    before, found, after = engine.run(cells)
    assert before == after
    assert None not in before["deltas"].values()
    assert "refused" not in before
    assert [target for target, delta in found["deltas"].items() if delta is None] == ["3.0"]
    assert list(found["refused"]) == ["3.0"]
    assert found["refused"]["3.0"].startswith("target must be a factor below 2.6")
