# SPDX-License-Identifier: MIT
"""The command line, run as its users run it: arguments in, text, files and exit codes out."""

import functools
import io
import json
import os
import re
import subprocess
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner

import guide_ext
from guide_ext.cli import app, options
from guide_ext.cli.terminal import marked_tokens
from guide_ext.demo import demo
from guide_ext.marking.spans import Span
from guide_ext.marking.tokens import Encoding

DOCUMENT = "Yesterday, the old baker hides the key in the barn. Anna likes the salt."
PROMPT = f"<!!->Summarize in French<-!!>\n{DOCUMENT}"


@pytest.fixture
def run():
    runner = CliRunner()

    def invoke(*arguments, stdin=None):
        return runner.invoke(app.app, list(arguments), input=stdin)

    return invoke


@pytest.mark.parametrize(
    "command", ["generate", "influence", "spans", "calibrate", "study run", "study heads"]
)
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("emb", ["embedded"]),
        ("", ["embedded", "smollm2", "checkpoint/", "tiny.gguf"]),
        ("check", ["checkpoint/"]),
        ("checkpoint/", ["checkpoint/b.gguf", "checkpoint/more/"]),
        (".hid", [".hidden/"]),
        ("none/", []),
    ],
)
def test_the_shell_completes_models(run, tmp_path, monkeypatch, command, typed, offered):
    monkeypatch.chdir(tmp_path)
    for name in ("checkpoint/more", ".hidden"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("tiny.gguf", "notes.txt", "checkpoint/b.gguf", "checkpoint/config.json"):
        (tmp_path / name).touch()
    line = f"guide-ext {command} --model {typed}"
    completed = CliRunner().invoke(
        app.app,
        prog_name="guide-ext",
        env={
            "_GUIDE_EXT_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(line.count(" ")),
        },
    )
    assert completed.output.split() == offered


def test_completing_a_model_loads_no_torch():
    program = (
        "import sys; from guide_ext.cli.complete import complete_model; complete_model('s'); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_help_names_every_command_and_shows_a_tag(run):
    result = run("--help")
    assert result.exit_code == 0
    for word in ("demo", "generate", "profile", "influence", "harness", "spans", "doctor", "<!!->"):
        assert word in result.output


@pytest.mark.parametrize(
    "command", ["demo", "generate", "profile", "influence", "harness", "spans", "doctor"]
)
def test_every_command_has_help(run, command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "--debug" in result.output


def test_version(run):
    assert run("--version").stdout.strip() == guide_ext.__version__


def test_generate_steers_by_the_tag(run):
    result = run("generate", PROMPT, "--delta", "2", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["guided"] == "Le boulanger cache la clé dans la grange."
    assert record["delta"] == 2.0
    assert record["layers"] is None
    assert "plain" not in record


def test_generate_reads_standard_input_and_files_alike(run, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text(PROMPT, encoding="utf-8")
    outputs = {
        run("generate", PROMPT).stdout,
        run("generate", "-", stdin=PROMPT).stdout,
        run("generate", stdin=PROMPT).stdout,
        run("generate", "--file", str(file)).stdout,
    }
    assert len(outputs) == 1
    assert "boulanger" in outputs.pop()


def test_compare_shows_both_answers(run):
    result = run("generate", PROMPT, "--compare", "--json", "--delta", "9")
    record = json.loads(result.stdout)
    assert record["plain"] != record["guided"]
    table = run("generate", PROMPT, "--compare").output
    assert "plain" in table
    assert "guided (Δ = 2)" in table


def test_layers_select_where_to_steer(run):
    def guided(*options):
        options = ("--delta", "9", "--max-new-tokens", "20", "--json", *options)
        return json.loads(run("generate", PROMPT, *options).stdout)["guided"]

    everywhere = guided()
    assert guided("--layers", "0-3") == everywhere
    assert guided("--layers", "3") != everywhere


def test_heads_select_where_to_steer(run, tmp_path):
    file = tmp_path / "heads.json"

    def generated(heads):
        file.write_text(json.dumps(heads), encoding="utf-8")
        options = ("--delta", "9", "--max-new-tokens", "20", "--json", "--heads", str(file))
        return json.loads(run("generate", PROMPT, *options).stdout)

    every = [[layer, head] for layer in range(4) for head in range(4)]
    everywhere = run("generate", PROMPT, "--delta", "9", "--max-new-tokens", "20", "--json").stdout
    assert generated(every)["guided"] == json.loads(everywhere)["guided"]
    # Layer 3 alone, as a bare list and as 'study heads' saves it.
    last = [[3, head] for head in range(4)]
    by_layer = run("generate", PROMPT, "--delta", "9", "--max-new-tokens", "20", "--json",
                   "--layers", "3").stdout  # fmt: skip
    assert generated(last)["guided"] == json.loads(by_layer)["guided"]
    assert generated({"heads": last, "seed": 7})["heads"] == last


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("[[9, 0]]", (), "layers must be below 4"),
        ("[[0, 9]]", (), "heads must be below 4"),
        ("[]", (), "--heads must be a JSON list of pairs"),
        ("[[0, 1]]", ("--layers", "0"), "--layers must be left out with --heads"),
    ],
)
def test_heads_that_cannot_be(run, tmp_path, text, options, message):
    file = tmp_path / "heads.json"
    file.write_text(text, encoding="utf-8")
    result = run("generate", PROMPT, "--heads", str(file), *options)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_sampling_repeats_with_its_seed(run):
    options = ("generate", PROMPT, "--temperature", "1.5", "--json", "--seed")
    assert run(*options, "3").stdout == run(*options, "3").stdout


def test_spans_lists_marked_tokens(run):
    result = run("spans", "<!!->Summarize<-!!> in <?place->the barn<-?place>", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    marked = [token for token, nats in zip(record["tokens"], record["nats"], strict=True) if nats]
    assert "".join(marked).lstrip("Ġ") == "Summarize"
    assert sum(record["groups"]["place"]) >= 2
    assert "<!!->" not in record["text"]


def test_spans_shows_a_table_for_people(run):
    output = run("spans", PROMPT).output
    assert "+2" in output
    assert "steered" in output


def test_doctor_tells_what_serves_this_machine(run):
    record = json.loads(run("doctor", "--json").stdout)
    dtypes = {choice["dtype"]: choice for choice in record["kernels"] if choice["device"] == "cpu"}
    assert set(dtypes) == {"float32", "bfloat16", "float16", "float64"}
    assert dtypes["float64"]["reasons"]
    assert record["versions"]["torch"] in run("doctor").output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("generate", "<!!-> never closed"), "never closed"),
        (("generate", PROMPT, "--delta", "nan"), "delta"),
        (("generate", PROMPT, "--layers", "one"), "--layers"),
        (("generate", PROMPT, "--layers", "17"), "layers must be below 4"),
        (("generate", PROMPT, "--device", "banana"), "device must be one of this machine"),
        (("generate", PROMPT, "--device", "meta:x"), "device must be one of this machine"),
        (("generate", ""), "the prompt is empty"),
        (("spans", " \n"), "the prompt is empty"),
        (("generate", PROMPT, "--dtype", "float7"), "dtype"),
        (("generate", PROMPT, "--model", "./no-such-folder"), "no-such-folder"),
        (("generate", "--file", "no-such-file.txt"), "no-such-file.txt"),
        (("generate", PROMPT, "--file", "x.txt"), "not both"),
        (("spans", "a <-!> b"), "<-!>"),
        (("demo", "--documents", "0"), "--documents"),
        (("generate", PROMPT, "--dtype", "float8_e4m3fn"), "dtype must be one of 'auto'"),
        (("generate", PROMPT, "--device", "meta"), "'meta', which holds no numbers"),
        (("generate", PROMPT, "--temperature", "1e-40"), "temperature must be 0 (greedy) or"),
        (("generate", PROMPT, "--seed", "9" * 26), "--seed"),
        (("spans", "--delta", "1e308", "--json", "<!!!->hi<-!!!>"), "finite nats in float32"),
        (("spans", "<!->a\udcff<-!>"), "the prompt must be UTF-8 text"),
        (("generate", PROMPT, "--system", "a\udcff"), "--system must be UTF-8 text"),
    ],
)
def test_bad_input_is_one_clean_message_and_exit_code_2(run, arguments, expected):
    result = run(*arguments)
    assert result.exit_code == app.BAD_INPUT
    assert expected in result.output
    assert "Traceback" not in result.output


def test_a_prompt_longer_than_the_model_knows_positions(run):
    result = run("generate", "<!!->go<-!!>" + " fish" * 2000)
    assert result.exit_code == app.BAD_INPUT
    assert "fewer tokens than the 1024 positions that the model knows, got 4" in result.output


def test_demo_refuses_a_folder_that_it_cannot_make_before_it_works(run, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "run_demo", None)
    (tmp_path / "file").touch()
    result = run("demo", "--out", str(tmp_path / "file"))
    assert result.exit_code == app.BAD_INPUT, result.output
    assert "--out must be a folder, got" in result.output


@pytest.mark.long
def test_an_instruction_set_that_does_not_exist_is_no_fault_of_the_model():
    done = subprocess.run(
        [sys.executable, "-c", "from guide_ext.cli import main; main()", "generate", PROMPT],
        env=os.environ | {"GUIDE_EXT_CPU_ISA": "mmx"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "was not built" in done.stderr:
        pytest.skip("no compiled library")
    assert done.returncode == app.BAD_INPUT, done.stderr
    assert "GUIDE_EXT_CPU_ISA=mmx names no instruction set" in done.stderr
    assert "architecture" not in done.stderr


def test_bytes_that_are_no_text(run, tmp_path):
    file = tmp_path / "picture.png"
    file.write_bytes(b"\x89PNG\xff")
    result = run("spans", "--file", str(file))
    assert result.exit_code == app.BAD_INPUT
    assert f"{file} must be UTF-8 text" in result.stderr.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "hints"),
    [
        (("Summarize.",), 1),
        (("<?->Summarize.<-?>",), 1),
        (("<!->Summarize.<-!>",), 0),
        (("Summarize.", "--system", "<!->Be brief.<-!>"), 0),
    ],
)
def test_prompt_without_emphasis_gets_a_hint_on_standard_error(run, arguments, hints):
    result = run("generate", *arguments, "--max-new-tokens", "1", "--json")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("nothing is marked") == hints
    assert "nothing is marked" not in result.stdout


def test_output_that_is_not_unicode_is_replaced():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    script = "from guide_ext.cli import main; main()"
    found = subprocess.run(
        [sys.executable, "-c", script, "generate", "--help"],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert re.search(r"--delta\b", found.stdout)
    assert "?" in found.stdout  # each Δ


def test_tokens_are_never_read_as_markup():
    encoding = Encoding([5, 6], [(0, 3), (3, 8)], "[b][/zz]", (), (Span(0, 2, level=2),))
    console = Console(width=100, file=io.StringIO())
    console.print(marked_tokens(encoding, ["[b]", "[/zz]"], 2.0))
    assert "'[/zz]'" in console.file.getvalue()


def test_debug_lets_the_error_through(run):
    result = run("generate", "<!!-> never closed", "--debug")
    assert isinstance(result.exception, ValueError)


@pytest.mark.parametrize(("text", "layers"), [("3", [3]), ("0-2,5", [0, 1, 2, 5]), ("2,2", [2])])
def test_parse_layers(text, layers):
    assert options.parse_layers(text) == layers


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1,,2", "1.5", "3-1", "0-999999999"])
def test_parse_layers_refuses_what_it_cannot_read(text):
    with pytest.raises(ValueError, match="--layers"):
        options.parse_layers(text)


def test_demo_writes_table_and_picture(run, tmp_path, monkeypatch):
    shorter = functools.partial(demo.DemoSettings, deltas=(0.0, 2.0, 9.0), speed_rounds=1)
    monkeypatch.setattr(demo, "DemoSettings", shorter)
    result = run("demo", "--out", str(tmp_path), "--documents", "6")
    assert result.exit_code == 0, result.output
    saved = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [task["task"] for task in saved["tasks"]] == ["french", "json"]
    for task in saved["tasks"]:
        assert {row["trials"] for row in task["rows"]} == {6}
        for row in task["rows"]:
            low, high = row["success_interval"]
            assert 0 <= low <= row["success"] <= high <= 1
            assert row["success"] <= row["well_formed"]
    assert {row["attention"] for row in saved["speed"]["rows"]} == {"sdpa", "guide", "guide, Δ = 2"}
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
