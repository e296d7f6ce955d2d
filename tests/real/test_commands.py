# SPDX-License-Identifier: MIT
"""`guide-ext … -m smollm2`, run as its users run it, and what it says compared with the library."""

from __future__ import annotations

import json

import pytest
from pages import Reader, pixels
from typer.testing import CliRunner

from guide_ext import integration as guide
from guide_ext.calibration.calibration import Calibration
from guide_ext.cli import app
from guide_ext.steering.steering import Steering

RULE = "Answer in French"
PROMPT = f"<!!->{RULE}<-!!>: what is the capital of Italy?"
NEW = 8


@pytest.fixture(scope="module")
def run():
    """Run a command on SmolLM2; return what it printed on standard output."""
    runner = CliRunner()

    def invoke(command, *arguments, stdin=None, code=0):
        model = ("--model", "smollm2")
        device = () if command == "spans" else ("--device", "cpu")
        result = runner.invoke(
            app.app, [command, *map(str, arguments), *model, *device],
            input=stdin, env={"COLUMNS": "120"},
        )  # fmt: skip
        assert result.exit_code == code, result.output
        return result.stdout if code == 0 else result.output

    return invoke


def answer(smollm2, delta, text=PROMPT):
    prompt = guide.as_prompt(smollm2[1], text)
    return guide.complete(*smollm2, [prompt], delta=delta, max_new_tokens=NEW)[0].strip()


class TestGenerate:
    def test_plain_and_guided(self, run, smollm2):
        found = json.loads(run("generate", PROMPT, "--compare", "--json", "--max-new-tokens", NEW,
                               "--delta", 3))  # fmt: skip
        assert found["guided"] == answer(smollm2, 3.0)
        assert found["plain"] == answer(smollm2, 0.0)
        assert found["plain"] != found["guided"]
        assert (found["model"], found["delta"], found["prompt"]) == ("smollm2", 3.0, PROMPT)

    def test_streamed_from_standard_input(self, run, smollm2):
        printed = run("generate", "--max-new-tokens", NEW, stdin=PROMPT)
        assert printed.strip() == answer(smollm2, 2.0)

    def test_layers_and_a_system_message(self, run, smollm2):
        found = json.loads(run("generate", PROMPT, "--json", "--max-new-tokens", NEW, "--layers",
                               "10-14", "--system", "You are <!->brief<-!>."))  # fmt: skip
        prompt = guide.as_prompt(smollm2[1], PROMPT, system="You are <!->brief<-!>.")
        steering = Steering.guide(2.0, layers=range(10, 15))
        (wanted,) = guide.complete(*smollm2, [prompt], steering=steering, max_new_tokens=NEW)
        assert found["guided"] == wanted.strip()
        assert found["layers"] == list(range(10, 15))


def test_influence(run, smollm2, tmp_path):
    files = [tmp_path / f"report{suffix}" for suffix in (".html", ".png", ".json")]
    outs = [argument for file in files for argument in ("--out", file)]
    text = f"<?rule->{PROMPT.replace(': ', ':<-?rule> ')}"
    found = json.loads(run("influence", text, "--json", "--max-new-tokens", NEW, *outs))
    Reader(files[0].read_text(encoding="utf-8"))
    assert pixels(files[1]).std() > 0
    assert json.loads(files[2].read_text(encoding="utf-8")) == found
    assert found["groups"] == ["rule"]
    prompt = guide.as_prompt(smollm2[1], text)
    for one, delta in zip(found["runs"], (0.0, 2.0), strict=True):
        assert one["answer"] == answer(smollm2, delta)
        measured = guide.influence(smollm2[0], guide.encode(*smollm2, prompt, delta=delta))
        wanted = measured.at_end_of_prompt().item()
        assert one["summary"][0]["end_of_prompt"] == pytest.approx(wanted, rel=1e-3)


def test_calibrated_then_used(run, smollm2, tmp_path):
    file = tmp_path / "calibration.json"
    found = json.loads(run("calibrate", PROMPT, "--target", 1.5, "--json", "--out", file))
    wanted = guide.calibrate(*smollm2, guide.as_prompt(smollm2[1], PROMPT), target=1.5)
    assert found["delta"] == pytest.approx(wanted.delta, abs=0.01)
    saved = Calibration.load(file)
    assert (saved.delta, saved.model) == (found["delta"], "smollm2")
    used = json.loads(
        run("generate", PROMPT, "--delta-from", file, "--json", "--max-new-tokens", NEW)
    )
    assert used["delta"] == found["delta"]
    assert used["guided"] == answer(smollm2, found["delta"])


def test_spans(run, smollm2):
    text = "Say <!!->«déjà-vu» 🌍<-!!> to <?who->the ﬁrst guest<-?who>."
    found = json.loads(run("spans", text, "--json", "--system", "Be <!->kind<-!>."))
    wanted = guide.encode(*smollm2, guide.as_prompt(smollm2[1], text, system="Be <!->kind<-!>."),
                          delta=2.0)  # fmt: skip
    assert found["input_ids"] == wanted["input_ids"][0].tolist()
    assert found["nats"] == wanted["guide_bias"][0].tolist()
    assert found["groups"] == {"who": wanted["guide_seed"][0, 0].bool().tolist()}
    marked = [token for token, nats in zip(found["input_ids"], found["nats"], strict=True) if nats]
    assert smollm2[1].decode(marked) == " kind «déjà-vu» 🌍"
    assert "<!!->" not in found["text"]
    assert "+2" in run("spans", text)


def test_the_shell_completes_its_name():
    completed = CliRunner().invoke(
        app.app,
        prog_name="guide-ext",
        env={
            "_GUIDE_EXT_COMPLETE": "complete_bash",
            "COMP_WORDS": "guide-ext generate --model smol",
            "COMP_CWORD": "3",
        },
    )
    assert completed.output.split() == ["smollm2"]


def test_a_study(run, tmp_path):
    pytest.importorskip("pydoc_data.topics")
    small = ("--documents", 1, "--windows", 1, "--window-tokens", 100, "--no-baselines")
    few = ("--deltas", "0,2", "--max-new-tokens", 4, "--out", tmp_path)
    found = json.loads(
        run("study", "run", "needle", "--data", "python-docs", "--json", *small, *few)
    )
    assert found == json.loads((tmp_path / "tables.json").read_text(encoding="utf-8"))
    (progress,) = found["progress"].values()
    assert progress["done"] == progress["total"] > 0
    assert found["tables"]


@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        ("generate", ("<!!-> never closed",), "never closed"),
        ("generate", (PROMPT, "--layers", "30"), "layers must be below 30"),
        ("generate", (f"{PROMPT} {'word ' * 8300}",), "fewer tokens than the 8192 positions"),
        ("influence", ("Answer in French.",), "prompt must mark the text"),
        ("calibrate", ("<!1.5->Be<-!> brief.",), "must have text inside"),
        ("calibrate", (PROMPT, "--max-delta", "0.01", "--target", "2"), "up to max_delta=0.01"),
        ("spans", ("<!->a<-!!>",), "does not match"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clean_message(run, command, arguments, expected):
    printed = run(command, *arguments, code=app.BAD_INPUT)
    assert expected in " ".join(printed.split())
    assert "Traceback" not in printed
