"""The pictures of Influence: records, pages, figures, and the command that makes them."""

import copy
import io
import json
import re

import matplotlib.image
import numpy as np
import pytest
import torch
from pages import HOSTILE, TWO_GROUPS, Reader, hostile_record
from rich.console import Console
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from guide_ext import integration as guide
from guide_ext.cli import app
from guide_ext.cli.terminal import influence_table
from guide_ext.influence.record import Record, number_text, visible
from guide_ext.integration.compare import END_TOKENS, check_marked, measure_prompt, token_texts
from guide_ext.report.influence.page import InfluenceReport, influence_html

DOCUMENT = "Yesterday, the old baker hides the key in the barn. Anna likes the salt."
STEERED = f"<!!->Summarize in French<-!!>\n{DOCUMENT}"


@pytest.fixture(scope="module")
def embedded():
    return guide.load_embedded()


@pytest.fixture(scope="module")
def record(embedded):
    model, tokenizer = embedded
    prompt = guide.as_prompt(tokenizer, TWO_GROUPS)
    return measure_prompt(model, tokenizer, prompt, delta=2.0, model_name="embedded")


# The record.


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


@pytest.mark.parametrize("form", ["paper", "exact", "authors", "rollout", "raw"])
def test_every_form_can_be_drawn(embedded, form, tmp_path):
    model, tokenizer = embedded
    found = measure_prompt(model, tokenizer, STEERED, form=form, max_new_tokens=2)
    assert form in influence_html(found)


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


@pytest.mark.parametrize("part", ["runs", "prompt", "groups", "settings", "layers"])
def test_what_is_no_record_is_refused(record, part):
    broken = {name: value for name, value in record.items() if name != part}
    with pytest.raises(ValueError, match=f"{part} of the record must be"):
        InfluenceReport(broken)


@pytest.mark.parametrize("wrong", [{"kind": "guide_ext study tables"}, {"format": 2}])
def test_records_of_another_kind_are_refused(record, wrong):
    with pytest.raises(ValueError, match=r"record must be what .*, format 1, got '"):
        InfluenceReport(record | wrong)
    with pytest.raises(ValueError, match="record must be a JSON object, got list"):
        InfluenceReport([])


def at(record, path, value):
    """Return the record with another value at a path."""
    found = copy.deepcopy(record)
    place = found
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return found


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("runs", 0, "name"), 'plain"><script>', "runs of the record must be 'plain', or 'plain'"),
        (("runs", 1, "name"), "plain", "runs of the record must be"),
        (("runs", 1, "values", 0, 2, 3), "0.5", "values of the guided run must be null or a"),
        (("runs", 1, "values", 0, 2, 3), float("nan"), "null or a finite number from 0, got nan"),
        (("runs", 1, "values", 0, 2, 3), -0.1, "null or a finite number from 0, got -0.1"),
        (("runs", 1, "values", 0, 2, 3), 10**400, "null or a finite number from 0, got 1000"),
        (("runs", 1, "delta"), "2", "delta of the guided run must be a finite number, got '2'"),
        (("runs", 0, "answer"), None, "answer of the plain run must be a text, got None"),
        (("runs", 0, "summary", 0, "answer"), "1", "answer of the plain run must be a finite"),
        (("runs", 0, "summary", 0, "group"), "x", "summary of the plain run must be of the groups"),
        (("runs", 0, "tokens", 1, "text"), 3, "text of the token 1 of the plain run must be"),
        (("prompt", "tokens", 2, "special"), "no", "special of the token 2 of the prompt must be"),
        (("prompt", "tokens"), [], "tokens of the prompt must be at least one"),
        (("prompt", "nats", 0), "1", "each of nats of the prompt must be a finite number"),
        (("prompt", "nats"), [1.0], "nats of the prompt must be a list of"),
        (("prompt", "groups", "rule"), [True], "group 'rule' of the prompt must be a list of"),
        (("prompt", "groups", "rule", 1), "x", "group 'rule' of the prompt must be true or false"),
        (("layers",), "4", "layers of the record must be a whole number from 1, got '4'"),
        (("layers",), 5, "values of a group of the plain run must be a list of 6 values, got 5"),
        (("groups",), ["rule", "rule"], "groups of the record must be different ones"),
        (("groups",), "rule", "groups of the record must be texts, got 'rule'"),
        (("settings", "end_tokens"), 0, "end_tokens of the settings must be a whole number from 1"),
        (("settings", "form"), ["paper"], "form of the settings must be a text"),
        (("versions", "guide_ext"), 1, "guide_ext of the versions must be a text, got 1"),
        (("model",), {}, "model of the record must be a text, got {}"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(record, path, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        InfluenceReport(at(record, path, value))


def test_values_that_do_not_fit_are_refused(record):
    broken = copy.deepcopy(record)
    broken["runs"][1]["values"][0].pop()
    with pytest.raises(ValueError, match="of the guided run"):
        influence_html(broken)


def test_the_scale_leaves_out_the_group_itself(record):
    read = Record.read(record)
    for group in range(2):
        inside = [value for run in read.runs for value in run.values[group][0] if value]
        assert max(inside) == 1.0
        assert 0 < read.top(group) <= 1.0
        assert all(
            value <= read.top(group)
            for run in read.runs
            for level in run.values[group]
            for token, value in enumerate(level)
            if value is not None and not read.is_member(group, token)
        )
        for level in range(read.layers + 1):
            shown = [
                value
                for run in read.runs
                for token, value in enumerate(run.values[group][level])
                if value is not None and not read.is_member(group, token)
            ]
            top = read.top(group, level)
            assert max(shown) <= top <= read.top(group) or (level, top) == (0, 1.0)
            assert max(shown) > 0.4 * top or level == 0  # what is shown fills its scale


@pytest.mark.parametrize("same", [0, 2, None])
def test_guided_minus_plain(record, same):
    if same is not None:
        record = at(record, ("runs", 1, "tokens", same, "text"), "another")
    read = Record.read(record)
    plain, guided = (np.array(run["values"], dtype=float) for run in record["runs"])
    length = min(plain.shape[2], guided.shape[2])
    end = length if same is None else read.prompt_tokens + same
    assert read.compared_tokens == end
    for group in range(2):
        for level in range(read.layers + 1):
            expected = guided[group, level, :end] - plain[group, level, :end]
            found = [read.difference(group, level, token) for token in range(read.longest)]
            np.testing.assert_array_equal(np.array(found[:end], dtype=float), expected)
            assert found[end:] == [None] * (read.longest - end)
            outside = [not read.is_member(group, token) for token in range(end)]
            largest = round(np.nanmax(np.abs(expected[outside])), 6)
            assert largest <= read.difference_top(group, level)
            assert read.difference_top(group, level) <= read.difference_top(group) or not largest


def test_small_numbers_do_not_vanish():
    assert [number_text(value) for value in (0.0, 0.00004, 0.000999, 0.001, 0.5)] == [
        "0.0000", "0.00004", "0.000999", "0.0010", "0.5000",
    ]  # fmt: skip
    assert [number_text(value, is_signed=True) for value in (0.0, 0.02, -0.00002)] == [
        "0.0000", "+0.0200", "−0.00002",
    ]  # fmt: skip


# The page.


def test_the_page_is_well_formed_and_self_contained(record):
    page = influence_html(record)
    read = Reader(page)
    assert "http:" not in page
    assert "https:" not in page
    assert ("html", {"lang": "en"}) in read.elements
    assert len(read.ids) == len(set(read.ids))
    for tag, attributes in read.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert not any(name.startswith("on") for name in attributes)
        assert "href" not in attributes
        if "src" in attributes:
            assert attributes["src"].startswith("data:image/png;base64,")


def test_the_page_shows_every_token_with_its_number(record):
    read = Reader(influence_html(record))
    shown = read.tokens()
    expected = [
        (str(index), str(token), values)
        for index, run in enumerate(record["runs"])
        for token, values in enumerate(run["values"][0][-1])
    ]
    assert {(one["data-run"], one["data-token"]) for one in shown} == {one[:2] for one in expected}
    assert len(shown) == len(expected)
    numbers = {(one["data-run"], one["data-token"]): one for one in shown}
    read_record = Record.read(record)
    for run, token, value in expected:
        attributes = numbers[run, token]
        label = read_record.runs[int(run)].tokens[int(token)].label
        number = "not measured" if value is None else number_text(value)
        assert attributes["title"] == attributes["aria-label"]
        assert label in attributes["title"]
        assert attributes["title"].endswith(number)


def test_hostile_tokens_are_inert(record):
    hostile = hostile_record(record)
    page = influence_html(hostile)
    read, clean = Reader(page), Reader(influence_html(record))
    # The same elements with the same attributes: no token became markup.
    assert [(tag, *found) for tag, found in read.elements] == [
        (tag, *found) for tag, found in clean.elements
    ]
    assert [tag for tag, _ in read.elements].count("script") == 2
    data = json.loads(next(text for tag, text in read.texts if tag == "script"))
    assert data["groups"] == [visible(name) for name in HOSTILE[:2]]
    assert "\u202e" not in page
    page.encode("utf-8")
    titles = " ".join(one["title"] for one in read.tokens())
    for text in HOSTILE:
        assert visible(text) in titles


def test_only_the_own_script_may_run(record):
    read = Reader(influence_html(record))
    policy = next(found["content"] for tag, found in read.elements if found.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert "unsafe-eval" not in policy


def test_one_run_alone(embedded, tmp_path):
    found = measure_prompt(*embedded, f"<?->Summarize<-?> {DOCUMENT}", max_new_tokens=2)
    read = Reader(influence_html(found))
    assert {one["data-run"] for one in read.tokens()} == {"0"}
    InfluenceReport(found).save(tmp_path / "one.png")


def test_notebooks_get_the_page_in_a_frame(record):
    report = InfluenceReport(record)
    read = Reader(report._repr_html_())
    assert [tag for tag, _ in read.elements] == ["iframe"]
    assert read.elements[0][1]["srcdoc"] == influence_html(record)
    assert repr(report) == (
        "InfluenceReport('embedded', groups=['rule', 'place'], runs=['plain', 'guided'])"
    )


def test_saved_files(record, tmp_path):
    report = InfluenceReport(record)
    page = report.save(tmp_path / "a.html")
    assert page.read_text(encoding="utf-8") == influence_html(record)
    numbers = report.save(str(tmp_path / "a.json"))
    assert json.loads(numbers.read_text(encoding="utf-8")) == record
    with pytest.raises(ValueError, match=r"path must end in .html, .png, .json, got"):
        report.save(tmp_path / "a.pdf")


# The picture.


def pixels(path):
    return matplotlib.image.imread(path)[..., :3]


@pytest.mark.parametrize("hostile", [False, True])
def test_the_picture_shows_the_heat(record, tmp_path, hostile, recwarn):
    chosen = hostile_record(record) if hostile else record
    picture = pixels(InfluenceReport(chosen).save(tmp_path / "a.png"))
    height, width, _ = picture.shape
    assert width > 1000
    assert height > 1000
    is_orange = (picture[..., 0] > 0.8) & (picture[..., 1] < 0.75) & (picture[..., 2] < 0.4)
    assert is_orange.mean() > 0.003
    assert (picture.mean(-1) > 0.9).mean() > 0.3
    if not hostile:
        assert not [w for w in recwarn if "matplotlib" in str(w.filename)]


# The command line.


@pytest.fixture
def run():
    runner = CliRunner()
    return lambda *arguments, stdin=None: runner.invoke(
        app.app, ["influence", *map(str, arguments)], input=stdin, env={"COLUMNS": "120"}
    )


def test_the_command_writes_page_picture_and_numbers(run, tmp_path):
    files = [tmp_path / f"report{suffix}" for suffix in (".html", ".png", ".json")]
    outs = [argument for file in files for argument in ("--out", file)]
    result = run(TWO_GROUPS, "--max-new-tokens", "8", *outs)
    assert result.exit_code == 0, result.output
    for word in ("rule", "place", "plain", "guided (Δ = 2)", "answer", f"last {END_TOKENS} tokens"):
        assert word in result.output
    Reader(files[0].read_text(encoding="utf-8"))
    assert pixels(files[1]).std() > 0
    saved = json.loads(files[2].read_text(encoding="utf-8"))
    assert saved["model"] == "embedded"
    summary = saved["runs"][1]["summary"][0]
    assert f"{summary['end_of_prompt']:.4f}" in result.output
    assert all(str(file) in result.output for file in files)


def test_json_on_standard_output_is_the_record(run, tmp_path):
    file = tmp_path / "a.json"
    result = run(STEERED, "--json", "--delta", "1", "--form", "exact", "--out", file)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == json.loads(file.read_text(encoding="utf-8"))
    assert (found["settings"]["form"], found["settings"]["delta"]) == ("exact", 1.0)


def test_help_teaches(run):
    result = run("--help")
    assert result.exit_code == 0
    for word in ("<?->", "<!!->", "report.html", "--form", "rollout"):
        assert word in result.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((DOCUMENT,), "prompt must mark the text whose Influence is wanted"),
        (("<?-> never closed",), "never closed"),
        ((STEERED, "--form", "best"), "form must be one of 'paper', 'exact'"),
        ((STEERED, "--delta", "inf"), "delta must be"),
        (
            (STEERED, "--out", "report.pdf"),
            "--out must end in .html, .png, .json, got 'report.pdf'",
        ),
        ((STEERED, "--out", "report"), "--out must end in"),
        ((STEERED, "--out", "no-such-folder/a.html"), "--out must be in a folder that exists"),
        ((STEERED, "--max-new-tokens", "0"), "--max-new-tokens"),
        ((STEERED, "--temperature", "1e-40"), "temperature must be 0 (greedy) or"),
        ((STEERED, "--model", "./no-such-folder"), "no-such-folder"),
    ],
)
def test_bad_input_is_one_clean_message_and_exit_code_2(run, arguments, expected):
    result = run(*arguments)
    assert result.exit_code == app.BAD_INPUT, result.output
    assert expected in result.output
    assert "Traceback" not in result.output


def test_out_is_checked_before_a_model_is_loaded(run, tmp_path, monkeypatch):
    monkeypatch.setattr("guide_ext.integration.load", None)
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder.html", tmp_path / "file" / "a.png"):
        result = run(STEERED, "--out", path)
        assert result.exit_code == app.BAD_INPUT
        assert "--out must be" in result.output


def test_a_disk_that_refuses_is_told(run, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(InfluenceReport, "save", refuse)
    result = run(STEERED, "--max-new-tokens", "1", "--out", tmp_path / "a.html")
    assert result.exit_code == app.BAD_INPUT
    assert "--out cannot be written" in result.output
    assert "No space left" in result.output


def test_texts_in_the_terminal_are_never_read_as_markup(record):
    hostile = hostile_record(record)
    name = hostile["groups"][0]
    hostile["groups"][0] = "[b][/zz]"
    hostile["prompt"]["groups"]["[b][/zz]"] = hostile["prompt"]["groups"].pop(name)
    hostile["settings"]["form"] = "[/zz]"
    for run in hostile["runs"]:
        run["summary"][0]["group"] = "[b][/zz]"
    hostile["runs"][0]["answer"] = "[/zz]\x1b[31m"
    console = Console(width=100, file=io.StringIO())
    console.print(influence_table(hostile))
    assert "[b][/zz]" in console.file.getvalue()
    assert "\x1b" not in console.file.getvalue()
