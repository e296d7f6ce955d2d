# SPDX-License-Identifier: MIT
"""lm-evaluation-harness on a local task: tags act, and without them nothing differs."""

import functools
import json
import re

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from sqlitedict import SqliteDict

import guide_ext.integration as guide
from guide_ext.integration.harness import GuideLM
from guide_ext.steering.steering import Steering

DOCUMENTS = [
    {"text": "The cat sleeps in the old house.", "first": " Le chat dort.", "second": " A cat."},
    {"text": "The dog eats the bread.", "first": " Le chien mange.", "second": " The dog eats."},
    {"text": "The baker hides the key in the barn of the mill.", "first": " Le boulanger",
     "second": " The baker hides"},
]  # fmt: skip
MARKED, PLAIN = "<!!->Summarize in French<-!!>: {{text}}", "Summarize in French: {{text}}"


@pytest.fixture(scope="module")
def loaded():
    return guide.load_embedded()


@pytest.fixture
def tasks(tmp_path):
    """A task of choices and a task of answers, over the same documents."""
    data = tmp_path / "documents.jsonl"

    def write(prompt):
        data.write_text("\n".join(map(json.dumps, DOCUMENTS)), encoding="utf-8")
        common = {
            "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test", "doc_to_text": prompt, "target_delimiter": "",
        }  # fmt: skip
        choices = {
            **common, "task": "choices", "output_type": "multiple_choice",
            "doc_to_choice": ["{{first}}", "{{second}}"], "doc_to_target": 0,
            "metric_list": [{"metric": "acc"}],
        }  # fmt: skip
        choices["doc_to_choice"] = "{{[first, second]}}"
        answers = {
            **common, "task": "answers", "output_type": "generate_until",
            "doc_to_target": "{{first}}", "metric_list": [{"metric": "exact_match"}],
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False},
        }  # fmt: skip
        for task in (choices, answers):
            (tmp_path / f"{task['task']}.yaml").write_text(json.dumps(task), encoding="utf-8")
        return TaskManager(include_path=str(tmp_path), include_defaults=False)

    return write


def samples(model, manager, task):
    """Return what the model said to each document; asked for answers, in a chat."""
    found = simple_evaluate(
        model=model, tasks=[task], task_manager=manager, log_samples=True, bootstrap_iters=0,
        apply_chat_template=task == "answers",
    )  # fmt: skip
    rows = sorted(found["samples"][task], key=lambda row: row["doc_id"])
    return [row["filtered_resps"] for row in rows]


def steered(loaded, batch_size=2, **how):
    model, tokenizer = loaded
    return GuideLM(model, tokenizer=tokenizer, batch_size=batch_size, **how)


@pytest.mark.parametrize("task", ["choices", "answers"])
def test_without_tags_it_is_the_plain_model(loaded, tasks, task):
    model, tokenizer = loaded
    manager = tasks(PLAIN)
    wanted = samples(HFLM(model, tokenizer=tokenizer, batch_size=2), manager, task)
    found = samples(steered(loaded, delta=0.0), manager, task)
    assert_same(found, wanted)
    assert_same(samples(steered(loaded, delta=0.0), tasks(MARKED), task), wanted)


def assert_same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        if isinstance(one[0], str):
            assert one == other
        else:
            chances, wanted_chances = zip(*one, strict=True), zip(*other, strict=True)
            for a, b in zip(chances, wanted_chances, strict=True):
                assert a == pytest.approx(b, abs=1e-3)


@pytest.mark.parametrize(
    ("how", "steering"),
    [
        ({"delta": 3.0}, Steering.guide(3.0)),
        ({"delta": 3.0, "layers": "2+3"}, Steering.guide(3.0, layers=[2, 3])),
    ],
)
def test_choices_have_the_likelihoods_of_a_forward_pass(loaded, tasks, how, steering):
    model, tokenizer = loaded
    found = samples(steered(loaded, batch_size=3, **how), tasks(MARKED), "choices")
    for document, scores in zip(DOCUMENTS, found, strict=True):
        for answer, (chance, _) in zip(("first", "second"), scores, strict=True):
            prompt = MARKED.replace("{{text}}", document["text"])
            inputs = guide.encode(model, tokenizer, prompt + document[answer], steering=steering)
            ids = inputs["input_ids"][0]
            with torch.no_grad():
                logs = model(**inputs).logits[0].log_softmax(-1)
            begin = len(guide.encode(model, tokenizer, prompt)["input_ids"][0])
            wanted = logs[begin - 1 : -1].gather(1, ids[begin:, None]).sum()
            assert chance == pytest.approx(float(wanted), abs=1e-3)


def test_answers_are_those_of_generate(loaded, tasks):
    model, tokenizer = loaded
    found = samples(steered(loaded, batch_size=3, delta=3.0), tasks(MARKED), "answers")
    for document, [answer] in zip(DOCUMENTS, found, strict=True):
        prompt = MARKED.replace("{{text}}", document["text"])
        inputs = guide.encode(model, tokenizer, [{"role": "user", "content": prompt}], delta=3.0)
        ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        new = ids[0, inputs["input_ids"].shape[1] :]
        assert answer.strip()
        assert answer == tokenizer.decode(new, skip_special_tokens=True).split("\n")[0]


def test_marks_act_and_batches_change_nothing(loaded, tasks):
    manager = tasks(MARKED)
    for task in ("choices", "answers"):
        alone = samples(steered(loaded, batch_size=1, delta=3.0), manager, task)
        assert_same(samples(steered(loaded, batch_size=3, delta=3.0), manager, task), alone)
        assert samples(steered(loaded, delta=-6.0), manager, task) != alone


@pytest.mark.parametrize(
    ("marked", "answer"),
    [
        ("<!!->Answer: the cat <-!!> ", "sleeps."),
        ("<!!->Summarize\n<-!!>", "Le chat"),
        ("<!!->Answer: the cat <-!!>", "sleeps."),
        ("", "The cat."),
    ],
)
def test_blanks_beside_marks_change_no_token(loaded, marked, answer):
    model, tokenizer = loaded
    pairs = [
        Instance("loglikelihood", {}, (context, answer), 0)
        for context in (marked, re.sub("<!!->|<-!!>", "", marked))
    ]
    plain = HFLM(model, tokenizer=tokenizer).loglikelihood(pairs[1:], disable_tqdm=True)
    steered_model = steered(loaded, delta=0.0)
    for pair in pairs:
        assert_same([steered_model.loglikelihood([pair], disable_tqdm=True)], [plain])


def test_heads_of_a_file(loaded, tmp_path):
    file = tmp_path / "heads.json"
    file.write_text('{"heads": [[2, 0], [3, 1]]}', encoding="utf-8")
    model = steered(loaded, heads=str(file))
    assert model._strength.nonzero().tolist() == [[2, 0], [3, 1]]
    with pytest.raises(ValueError, match="layers must be left out with heads"):
        steered(loaded, heads=str(file), layers=3)


def test_saved_answers_are_those_of_one_model_and_delta(loaded, tasks, tmp_path):
    """The harness looks answers up by their prompts, and would take those of another Δ."""
    model, tokenizer = loaded
    manager, kept = tasks(MARKED), str(tmp_path / "kept")

    def run(delta, **given):
        lm = GuideLM(model, tokenizer=tokenizer, delta=delta, **given)
        found = simple_evaluate(
            model=lm, tasks=["choices"], task_manager=manager, log_samples=True,
            bootstrap_iters=0, use_cache=kept,
        )  # fmt: skip
        return [row["resps"] for row in found["samples"]["choices"]]

    assert run(2.0) == run(2.0)
    for delta, given in ((0.0, {}), (2.0, {"layers": "0"})):
        with pytest.raises(ValueError, match=r"(?s)use_cache must .* under .*delta_mid=2.0"):
            run(delta, **given)
    with SqliteDict(f"{kept}_rank0.db", autocommit=True) as answers:
        del answers["guide: made by"]
    with pytest.raises(ValueError, match="a model that is not named there"):
        run(2.0)


class TestErrors:
    def test_a_task_without_tags(self, loaded, tasks):
        for task in ("choices", "answers"):
            with pytest.raises(ValueError, match="delta must be 0 for a task whose prompts have"):
                samples(steered(loaded, delta=2.0), tasks(PLAIN), task)

    def test_tags_in_what_is_scored(self, loaded, tasks, monkeypatch):
        monkeypatch.setitem(DOCUMENTS[0], "first", " <!->Le<-!> chat")
        with pytest.raises(ValueError, match="the text that is scored must have no tags"):
            samples(steered(loaded, delta=2.0), tasks(MARKED), "choices")

    def test_a_tag_that_is_not_closed_in_what_is_scored(self, loaded, tasks, monkeypatch):
        monkeypatch.setitem(DOCUMENTS[0], "first", " <!->Le chat")
        with pytest.raises(ValueError, match="the text that is scored must have no tags"):
            samples(steered(loaded, delta=2.0), tasks(MARKED), "choices")

    def test_marked_text_that_would_be_cut_off(self, loaded, tasks):
        model = steered(loaded, delta=2.0, max_length=16, truncation=True)
        with pytest.raises(ValueError, match="marked text must be in the last 8 tokens"):
            samples(model, tasks(MARKED), "answers")
        with pytest.raises(ValueError, match="marked text must be in the last"):
            samples(steered(loaded, delta=2.0, max_length=8), tasks(MARKED), "choices")


def test_command(tasks, tmp_path, capsys, monkeypatch):
    from guide_ext.integration.harness import run_command

    # The command reads the thousands of tasks that come with the harness before it looks for ours.
    alone = functools.partialmethod(TaskManager.__init__, include_defaults=False)
    monkeypatch.setattr(TaskManager, "__init__", alone)
    tasks(MARKED)
    arguments = [
        "--model", "guide", "--model_args", "pretrained=embedded,delta=2,dtype=float32",
        "--tasks", "choices", "--include_path", str(tmp_path), "--device", "cpu",
    ]  # fmt: skip
    run_command("guide-ext harness", arguments)
    assert "|choices|" in capsys.readouterr().out.replace(" ", "")
