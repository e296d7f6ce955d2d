# SPDX-License-Identifier: MIT
"""What the command line sends to terminals: text that is shown, not obeyed, at any width."""

import io
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
from hostile import ANSWERED, HOSTILE, MAIN, OBEYED, hostile_model, on_terminal
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from typer.testing import CliRunner

from guide_ext import integration as guide
from guide_ext.cli import app, terminal
from guide_ext.integration.compare import measure_prompt
from guide_ext.machine.doctor import diagnose
from guide_ext.marking.spans import Span
from guide_ext.marking.tokens import Encoding
from guide_ext.report import console as consoles
from guide_ext.report.narrow import Fitting
from guide_ext.studies.registry import SECTIONS
from guide_ext.studies.report.terminal import study_table
from guide_ext.support.visible import TerminalStream, for_terminal

ROOT = Path(__file__).parents[2]
PROMPT = "<!!->Summarize in French<-!!>\nYesterday, the old baker hides the key in the barn."
NUMBER = re.compile(r"[-+×]?\d[\d.,]*%?")


def printed(renderable, width):
    console = consoles.console()
    console.file, console.width = io.StringIO(), width
    console.print(renderable)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def influence_record():
    model, tokenizer = guide.load_embedded()
    return measure_prompt(model, tokenizer, PROMPT, delta=2.5, max_new_tokens=6)


@pytest.fixture(scope="module")
def reports(influence_record):
    """Every table that a command prints, from real results."""
    tokens = [(0, 3), (3, 8)]
    encoding = Encoding([50123, 60001], tokens, "the place", (), (Span(0, 2, delta=1.375),))
    model, tokenizer = guide.load_embedded()
    found = guide.calibrate(model, tokenizer, [PROMPT, PROMPT + " Anna."], target=1.5)
    # A path may be longer than a line and has numbers of its own.
    diagnosis = replace(diagnose(), library_reason="loaded", cuda_library_reason="none")
    demo = json.loads((ROOT / "docs" / "demo.json").read_text(encoding="utf-8"))
    tables = json.loads((ROOT / "docs" / "studies" / "embedded.json").read_text(encoding="utf-8"))
    return {
        "spans": terminal.marked_tokens(encoding, ["the", "Ġplace"], 2.0),
        "generate": terminal.side_by_side("plain 12.75 and 3", "guided 99 of 1250", 2.0),
        "doctor": terminal.diagnosis_report(diagnosis),
        "calibrate": terminal.calibration_report(found),
        "demo": terminal.demo_report(demo),
        "influence": terminal.influence_table(influence_record),
        "study": study_table(tables, SECTIONS),
    }


COMMANDS = ("spans", "generate", "doctor", "calibrate", "demo", "influence", "study")


@pytest.mark.parametrize("width", [20, 40, 80])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_number_is_printed_whole(reports, command, width):
    whole = printed(reports[command], 400)
    text = printed(reports[command], width)
    assert NUMBER.search(whole)
    assert not Counter(NUMBER.findall(whole)) - Counter(NUMBER.findall(text)), text
    assert max(map(len, text.splitlines())) <= width
    assert text.count("…") == whole.count("…")  # some are in the texts themselves


def test_numbers_of_a_record_are_those_that_are_printed(reports, influence_record):
    text = printed(reports["influence"], 20)
    for run in influence_record["runs"]:
        for entry in run["summary"]:
            assert f"{entry['end_of_prompt']:.4f}" in text
            if entry["answer"] is not None:
                assert f"{entry['answer']:.4f}" in text


def test_a_wide_terminal_has_columns_and_a_narrow_one_lines():
    table = Table("name", "value", title="facts")
    table.add_row("a", "12345.678")
    table.add_row("b", "1")
    fitting = Fitting(table)
    assert "┃ name ┃ value     ┃" in printed(fitting, 20)
    assert printed(fitting, 19).split("\n") == [
        "facts", "name: a", "value: 12345.678", "", "name: b", "value: 1", ""
    ]  # fmt: skip
    assert "┃ name ┃ value     ┃" in printed(fitting, 80)


@pytest.mark.parametrize(
    "text",
    [
        "line\n\ttab",
        "déjà-vu 日本語",
        "\U0001f469\u200d\U0001f467 \U0001f3f4\U000e0067\U000e0062\U000e007f",  # joined, a flag
        "שלום\u200f!",
        "\u0645\u06cc\u200c\u062e",
        "a\u0301\u00adb\u00a0c",
    ],
)
def test_ordinary_text_stays(text):
    assert for_terminal(text) == text


def test_nothing_that_a_terminal_obeys_stays():
    shown = for_terminal(HOSTILE)
    assert not OBEYED & set(shown)
    assert "␛]0;pwned␇" in shown
    assert for_terminal("a\r\nb\rc") == "a\nb␍c"


@given(st.lists(st.text(st.sampled_from("\x1b\r\n[2Ja\x9b\u202e")), max_size=6))
def test_text_in_pieces_is_what_it_is_in_one(pieces):
    stream = TerminalStream()
    shown = "".join(map(stream.feed, pieces)) + stream.end()
    assert shown == for_terminal("".join(pieces))


def _poisoned(value):
    """Return a copy in which every text is hostile, where no decision hangs on it."""
    if isinstance(value, dict):
        kept = ("kind", "variant", "world", "name")
        return {k: v if k in kept else _poisoned(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_poisoned(item) for item in value]
    return value + HOSTILE if isinstance(value, str) else value


def test_no_report_obeys_what_it_shows(influence_record):
    model, tokenizer = guide.load_embedded()
    found = guide.calibrate(model, tokenizer, PROMPT, target=1.5)
    diagnosis = diagnose()
    choice = replace(diagnosis.kernels[0], reasons=(HOSTILE,))
    diagnosis = replace(
        diagnosis, versions={"torch": HOSTILE}, machine={"gpu": HOSTILE}, library_reason=HOSTILE,
        build={"compiler": HOSTILE, "list": [HOSTILE]}, kernels=(choice,),
    )  # fmt: skip
    demo = json.loads((ROOT / "docs" / "demo.json").read_text(encoding="utf-8"))
    tables = json.loads((ROOT / "docs" / "studies" / "embedded.json").read_text(encoding="utf-8"))
    tables |= {"model": HOSTILE, "failures": [
        {"study": "french", "row": HOSTILE, "condition": "", "error": HOSTILE}
    ]}  # fmt: skip
    record = _poisoned(influence_record)
    record["prompt"]["groups"] = {
        name + HOSTILE: flags for name, flags in record["prompt"]["groups"].items()
    }
    encoding = Encoding([5], [(0, len(HOSTILE))], HOSTILE, (), (Span(0, 1, level=2),))
    reports = [
        terminal.marked_tokens(encoding, [HOSTILE], 2.0),
        terminal.side_by_side(HOSTILE, HOSTILE, 2.0),
        terminal.diagnosis_report(diagnosis),
        terminal.calibration_report(found),
        terminal.demo_report(_poisoned(demo)),
        terminal.influence_table(record),
        study_table(tables, SECTIONS),
    ]
    for report in reports:
        for width in (20, 120):
            text = printed(report, width)
            assert not OBEYED & set(text)
        assert "pwned" in text or report is reports[3]


def test_a_cell_that_nobody_cleaned_is_harmless_too():
    table = Table("a")
    table.add_row(HOSTILE)
    assert not OBEYED & set(printed(table, 80))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return hostile_model(tmp_path_factory.mktemp("hostile") / "model")


def _without_our_own(sent):
    """Take away what rich draws with: colours, moves of bars, ends of lines."""
    return re.sub("\x1b\\[[0-9;?]*[mKAhlG]|\r", "", sent)


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", PROMPT, "--max-new-tokens", "12"),
        pytest.param(
            ("generate", PROMPT, "--max-new-tokens", "12", "--compare"), marks=pytest.mark.long
        ),
        pytest.param(("influence", PROMPT, "--max-new-tokens", "12"), marks=pytest.mark.long),
    ],
)
def test_an_answer_that_writes_to_the_terminal(model, arguments):
    shown = _without_our_own(on_terminal(*arguments, "--model", model, columns=200))
    assert "the title ␛]0;pwned␇ ␛[2J ⟨U+009B⟩2J e␈␍⟨U+202E⟩" in shown
    assert not OBEYED & set(shown)


@pytest.mark.long
def test_prompts_names_and_messages_that_write_to_the_terminal(tmp_path):
    hostile = HOSTILE.replace("\x00", "").replace("\udc9b", "")
    shown = on_terminal("spans", f"<!!->Summarize<-!!>{hostile}")
    # Tokens stand apart in the echo of a prompt.
    assert "␛]0;pwned␇" in _without_our_own(shown).replace("\u200a", "")
    assert not OBEYED & set(_without_our_own(shown))
    shown = on_terminal("spans", f"<!!->{hostile}<-!>", "--debug")
    assert "Traceback" in shown
    assert not OBEYED & set(_without_our_own(shown))


@pytest.mark.parametrize(
    "arguments",
    [
        ("spans", "--file", f"x{HOSTILE[:9]}"),
        ("spans", f"--{HOSTILE[:9]}"),
        (HOSTILE[:9],),
        ("generate", "a", "--model", f"./{HOSTILE[:9]}"),
        ("generate", "a", "--layers", HOSTILE[:9]),
        ("generate", "a", "--temperature", HOSTILE[:9]),
        ("calibrate", "--file", HOSTILE[:9]),
        ("study", "run", HOSTILE[:9]),
        ("study", "status", HOSTILE[:9]),
        ("study", HOSTILE[:9]),
        ("influence", "a", "--out", f"{HOSTILE[:9]}/a.html"),
        ("demo", "--out", f"/proc/{HOSTILE[:9]}"),
    ],
)
def test_errors_about_hostile_arguments(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)  # where a run without --out would begin
    result = CliRunner().invoke(app.app, arguments)
    assert result.exit_code == app.BAD_INPUT, result.output
    assert not OBEYED & set(result.output)


@pytest.mark.long
def test_words_of_a_checkpoint_in_logs_of_libraries(tmp_path):
    folder = tmp_path / "model"
    source = Path(str(files("guide_ext").joinpath("embedded", "model")))
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["model_type"] = "x\x1b]0;pwned\x07"
    (folder / "config.json").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "generate", "<!!->hi<-!!>", "--model", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == app.BAD_INPUT
    assert "x␛]0;pwned␇" in done.stderr
    assert not OBEYED & set(done.stderr)


@pytest.mark.long
def test_a_file_gets_the_answer_as_it_is(model):
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "generate", PROMPT, "--model", model],
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ANSWERED.encode() in done.stdout
