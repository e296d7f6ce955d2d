# SPDX-License-Identifier: MIT
"""Calibration of Δ on a model, measured again by other means, and the command."""

import doctest
import json
import math
from pathlib import Path

import pytest
from models import make
from typer.testing import CliRunner

from guide_ext import Calibration
from guide_ext import integration as guide
from guide_ext.cli import app
from guide_ext.influence.forms import FORMS
from guide_ext.integration.calibrate import _in_upper_case
from guide_ext.marking.spans import parse

DOCUMENTS = (
    "Yesterday, the old baker hides the key in the barn. Anna likes the salt.",
    "The thief paints the blue hammer in the museum. People know the museum. Anna likes salt.",
    "Leo says that the wolf is green. One evening, the queen sells the lamp in the garden.",
)
TEXTS = [f"<!!->Summarize in French<-!!>\n{document}" for document in DOCUMENTS]


def chats(texts):
    return [[{"role": "user", "content": text}] for text in texts]


@pytest.fixture(scope="module")
def embedded():
    return guide.load_embedded()


def influence_at(embedded, texts, delta, form="paper", last_tokens=10):
    """Measure without the code under test: the tags of a group around the tags of emphasis."""
    model, tokenizer = embedded
    marked = [
        text.replace("<!!->", "<?rule-><!!->").replace("<-!!>", "<-!!><-?rule>") for text in texts
    ]
    inputs = guide.encode(model, tokenizer, chats(marked), delta=delta)
    return guide.influence(model, inputs, form=form).at_end_of_prompt(last_tokens)[:, 0]


class TestModel:
    @pytest.mark.parametrize("form", FORMS)
    def test_a_factor(self, embedded, form):
        found = guide.calibrate(*embedded, chats(TEXTS[:1]), target=1.5, form=form)
        target = 1.5 * influence_at(embedded, TEXTS[:1], 0.0, form).item()
        assert found.target == pytest.approx(target, rel=1e-5)
        low, high = found.interval
        assert high - low <= 0.011
        assert influence_at(embedded, TEXTS[:1], found.delta - 0.01, form).item() < target
        assert influence_at(embedded, TEXTS[:1], found.delta + 0.01, form).item() > target
        assert (found.form, found.emphasis, found.last_tokens) == (form, 1.5, 10)
        assert found.passes == len(found.curve)

    def test_upper_case(self, embedded):
        upper = [text.replace("Summarize in French", "SUMMARIZE IN FRENCH") for text in TEXTS[:1]]
        target = influence_at(embedded, upper, 0.0).item()
        found = guide.calibrate(*embedded, chats(TEXTS[:1]), min_delta=-8.0)
        assert found.target == pytest.approx(target, rel=1e-5)
        assert influence_at(embedded, TEXTS[:1], found.delta - 0.01).item() < target
        assert influence_at(embedded, TEXTS[:1], found.delta + 0.01).item() > target
        assert found.passes == len(found.curve) + 1
        assert found.emphasis == "uppercase"

    def test_several_prompts(self, embedded):
        found = guide.calibrate(*embedded, chats(TEXTS), target=2.0, last_tokens=3)
        target = 2.0 * influence_at(embedded, TEXTS, 0.0, last_tokens=3)
        assert found.target == pytest.approx(target.mean().item(), rel=1e-5)

        def mean(delta):
            return influence_at(embedded, TEXTS, delta, last_tokens=3).mean().item()

        assert mean(found.delta - 0.01) < found.target < mean(found.delta + 0.01)
        assert len(found.per_prompt) == 3
        for row, delta in enumerate(found.per_prompt):
            below, above = (
                influence_at(embedded, TEXTS, delta + shift, last_tokens=3)[row]
                for shift in (-0.01, 0.01)
            )
            assert below < target[row] < above
        assert min(found.per_prompt) <= found.delta <= max(found.per_prompt)

    def test_batches_and_calls_agree(self, embedded):
        found = guide.calibrate(*embedded, chats(TEXTS), target=1.5)
        again = guide.calibrate(*embedded, chats(TEXTS), target=1.5)
        small = guide.calibrate(*embedded, chats(TEXTS), target=1.5, batch_size=1)
        assert found == again
        assert small.delta == pytest.approx(found.delta, abs=0.01)
        assert small.passes > found.passes

    def test_levels_follow(self, embedded):
        """Level 3 is twice level 2, so half the Δ does the same."""
        louder = [TEXTS[0].replace("!!", "!!!")]
        level_2, level_3 = (
            guide.calibrate(*embedded, chats(texts), target=1.5) for texts in (TEXTS[:1], louder)
        )
        assert level_2.delta == pytest.approx(2 * level_3.delta, abs=0.03)

    def test_stated_marks_keep_their_strength_and_are_not_measured(self, embedded):
        stated = TEXTS[0].replace("Anna", "<!2.5->Anna<-!>")
        found = guide.calibrate(*embedded, chats([stated]), target=1.5)
        target = 1.5 * influence_at(embedded, [stated], 0.0).item()
        assert found.target == pytest.approx(target, rel=1e-5)

    def test_other_groups_do_not_count(self, embedded):
        watched = TEXTS[0].replace("Anna", "<?name->Anna<-?name>")
        plain, other = (
            guide.calibrate(*embedded, chats([text]), target=1.5) for text in (TEXTS[0], watched)
        )
        assert plain == other

    def test_text_and_marked_text_and_one_chat(self, embedded):
        by_text = guide.calibrate(*embedded, TEXTS[0], target=1.5)
        by_marks = guide.calibrate(*embedded, parse(TEXTS[0]), target=1.5)
        assert by_text == by_marks
        (chat,) = chats(TEXTS[:1])
        assert guide.calibrate(*embedded, chat, target=1.5).per_prompt != ()

    def test_roles_that_are_trusted(self, embedded):
        chat = [
            {"role": "user", "content": "What shall I do?"},
            {"role": "assistant", "content": "<!!->Summarize in French<-!!>"},
        ]
        with pytest.raises(ValueError, match="a role that is not trusted"):
            guide.calibrate(*embedded, chat, target=1.5)
        found = guide.calibrate(*embedded, chat, target=1.5, trusted_roles=["assistant"])
        assert found.delta > 0

    def test_half_precision_is_less_sure(self):
        full = guide.calibrate(*guide.load_embedded(), chats(TEXTS[:1]), target=1.5)
        half = guide.calibrate(*guide.load_embedded(dtype="bfloat16"), chats(TEXTS[:1]), target=1.5)
        assert half.interval[1] - half.interval[0] > full.interval[1] - full.interval[0]
        assert half.delta == pytest.approx(full.delta, abs=0.2)

    @pytest.mark.parametrize(
        ("prompts", "options", "expected"),
        [
            (TEXTS, {"target": "shouting"}, "target must be 'uppercase', or a finite factor"),
            (TEXTS, {"target": 0.0}, "target must be"),
            (TEXTS, {"target": math.inf}, "target must be"),
            (TEXTS, {"target": True}, "target must be"),
            (TEXTS, {"form": "other"}, "form must be one of"),
            (TEXTS, {"last_tokens": 0}, "last_tokens must be at least 1, got 0"),
            (TEXTS, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
            (TEXTS, {"max_delta": -1.0}, "max_delta must be"),
            (TEXTS, {"tolerance": 0.0}, "tolerance must be"),
            ([], {}, "prompts must be at least one, got none"),
            (["Be brief."], {}, r"prompts\[0\] must have text inside <!->"),
            ([TEXTS[0], "<?->Be<-?> brief."], {}, r"prompts\[1\] must have text inside <!->"),
            (["<!1.5->Be<-!> brief."], {}, r"prompts\[0\] must have text inside <!->"),
            (["<!!->BE 3<-!!> brief."], {}, r"prompts\[0\] must have lower-case letters"),
            ([3], {}, "prompts must be text, MarkedText or chats"),
            (3, {}, "prompts must be text, MarkedText or chats"),
            (TEXTS, {"tools": []}, "tools must go with a chat"),
            (["<!!->never closed"], {}, "never closed"),
            (TEXTS, {"target": 1000.0}, "target must be a factor below .* here, .* got 1000"),
            (TEXTS, {"target": 0.5}, "only a negative Δ meets it"),
            (TEXTS, {"target": 3.0, "max_delta": 0.1}, r"reached up to max_delta=0\.1"),
        ],
    )
    def test_errors(self, embedded, prompts, options, expected):
        with pytest.raises(ValueError, match=expected):
            guide.calibrate(*embedded, prompts, **options)

    def test_a_model_that_trains_or_was_not_enabled(self, embedded):
        _, tokenizer = embedded
        model = make("llama")
        with pytest.raises(ValueError, match="enable"):
            guide.calibrate(model, tokenizer, TEXTS)
        with pytest.raises(ValueError, match="evaluation mode"):
            guide.calibrate(guide.enable(model).train(), tokenizer, TEXTS)


class TestUpperCase:
    def test_letters_that_become_two(self):
        marked = parse("die <!!->Straße <?a->nach<-?a><-!!> Köln <!1->ist<-!> lang")
        upper = _in_upper_case(marked, 0)
        assert upper.text == "die STRASSE NACH Köln ist lang"
        covered = [upper.text[span.start : span.end] for span in upper.spans]
        assert covered == ["STRASSE NACH", "NACH", "ist"]
        assert [span.kind for span in upper.spans] == [span.kind for span in marked.spans]


class TestCommand:
    @staticmethod
    def run(*arguments):
        return CliRunner().invoke(app.app, [str(argument) for argument in arguments])

    def test_from_prompts_to_a_steered_answer(self, tmp_path):
        file, prompt = tmp_path / "calibration.json", tmp_path / "prompt.txt"
        prompt.write_text(TEXTS[1], encoding="utf-8")
        done = self.run("calibrate", TEXTS[0], "--file", prompt, "--target", "1.5", "--out", file)
        assert done.exit_code == 0, done.output
        found = Calibration.load(file)
        assert (found.model, found.emphasis, len(found.per_prompt)) == ("embedded", 1.5, 2)
        for word in (f"{found.delta:.3f} nats", "1.5 times", str(found.passes), "saved:"):
            assert word in done.output
        answer = self.run("generate", TEXTS[0], "--delta-from", file, "--json")
        assert answer.exit_code == 0, answer.output
        assert json.loads(answer.stdout)["delta"] == found.delta
        assert "calibrated on" not in answer.stderr

    def test_json(self, embedded):
        done = self.run("calibrate", TEXTS[0], "--target", "1.5", "--json")
        found = Calibration.from_json(done.stdout)
        alone = guide.calibrate(*embedded, chats(TEXTS[:1]), target=1.5)
        assert found.delta == pytest.approx(alone.delta, abs=0.2)  # stored in bfloat16

    def test_another_model_is_noted(self, tmp_path):
        found = Calibration(0.5, 0.2, (0.5, 0.5), ((0.5, 0.2),), (0.5,), 5, model="m")
        found.save(tmp_path / "c.json")
        answer = self.run(
            "generate", TEXTS[0], "--delta-from", tmp_path / "c.json", "--max-new-tokens", 1
        )
        assert answer.exit_code == 0, answer.output
        assert "calibrated on 'm', not 'embedded'" in answer.stderr

    def test_help_teaches(self):
        done = self.run("calibrate", "--help")
        assert done.exit_code == 0
        for word in ("guide-ext calibrate '<!!->", "--delta-from", "uppercase", "--debug"):
            assert word in done.output.replace("\n", " ")

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ((), "no prompt"),
            ((" ",), "no prompt"),
            (("Be brief.",), "must have text inside"),
            (("<!!->Be",), "never closed"),
            ((TEXTS[0], "--target", "loud"), "--target must be 'uppercase' or a factor"),
            ((TEXTS[0], "--target", "nan"), "target must be"),
            ((TEXTS[0], "--form", "other"), "form must be one of"),
            ((TEXTS[0], "--target", "1.5", "--max-delta", "0.01"), "reached up to max_delta=0.01"),
            ((TEXTS[0], "--tolerance", "0"), "tolerance must be"),
            ((TEXTS[0], "--last-tokens", "0"), "--last-tokens"),
            ((TEXTS[0], "--file", "no-such-file.txt"), "no-such-file.txt"),
            ((TEXTS[0], "--model", "./no-such-folder"), "no-such-folder"),
            ((TEXTS[0], "--out", "no-such-folder/c.json"), "--out must be in a folder that exists"),
            (("<!!->a\udcff<-!!>",), "must be UTF-8 text"),
        ],
    )
    def test_errors(self, arguments, expected):
        done = self.run("calibrate", *arguments)
        assert done.exit_code == app.BAD_INPUT, done.output
        assert expected in done.output
        assert "Traceback" not in done.output

    @pytest.mark.parametrize("content", [None, "{}", "\x1b[31m"])
    def test_generate_with_a_bad_file(self, tmp_path, content):
        file = tmp_path / "c.json"
        if content is not None:
            file.write_text(content, encoding="utf-8")
        done = self.run("generate", TEXTS[0], "--delta-from", file)
        assert done.exit_code == app.BAD_INPUT
        assert "c.json" in done.output.replace("\n", "")


def test_the_page_says_what_happens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it saves a file
    failed, attempted = doctest.testfile(
        str(Path(__file__).parents[2] / "docs" / "calibration.md"),
        module_relative=False,
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
        encoding="utf-8",
    )
    assert failed == 0
    assert attempted > 0
