# SPDX-License-Identifier: MIT
"""The packaged model: its cache whole or not there, in one process and in several.

A package with a tiny GGUF file takes the place of the one with SmolLM2; tests/real has that one.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from gguf_files import tiny_llama, write_package

from guide_ext import integration as guide
from guide_ext.cli.complete import complete_model
from guide_ext.embedded import EMBEDDED
from guide_ext.integration import packaged
from guide_ext.studies.plan import RunSettings
from guide_ext.studies.run.engine import model_of_run
from guide_ext.studies.run.folder import model_hash

_PROGRAM = """
import json, sys
from guide_ext.integration.packaged import Packaged, cached
model = Packaged(**json.loads(sys.argv[1]))
print("folder", cached(model, lambda text: print("note", text, flush=True)), flush=True)
"""


@pytest.fixture
def model(tmp_path, monkeypatch):
    """Return a packaged model, installed for this process and its children, with an empty cache."""
    found = write_package(tmp_path / "site", tiny_llama())
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    paths = [str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("GUIDE_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(packaged.PACKAGED, "tiny", found)
    return found


def _visible(folder):
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


def _scratch(folder):
    return list(folder.glob(".*.tmp"))


def test_a_model_is_converted_once_and_then_read(model, tmp_path):
    notes = []
    loaded, tokenizer = guide.load("tiny", device="cpu", on_note=notes.append)
    folder = tmp_path / "home" / "models" / f"tiny-{model.sha256[:12]}"
    assert notes == [f"converting Tiny once, into {folder} (1 s)"]
    assert guide.is_enabled(loaded)
    assert tokenizer("the")["input_ids"]
    direct, _ = guide.load(str(tmp_path / "site" / "llm_tiny" / "tiny.gguf"), device="cpu")
    for name, weight in direct.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name
    assert (folder / "LICENSE").read_text() == "The licence.\n"
    origin = json.loads((folder / "ORIGIN.json").read_text())
    assert origin["package"] == "llm-tiny"
    assert origin["package_version"] == "1.0"
    assert origin["source_sha256"] == model.sha256
    assert origin["licence"] == "MIT"
    assert {*origin["files"], "ORIGIN.json"} == {path.name for path in folder.iterdir()}
    assert "llm_tiny" not in sys.modules  # importing it would have failed
    shutil.rmtree(tmp_path / "site")  # what has been converted needs the package no more
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert guide.load_tokenizer("tiny", on_note=notes.append)
    assert guide.load("tiny", device="cpu", on_note=notes.append)
    assert len(notes) == 1
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def _cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def _changed(folder):
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("the", "het"))


@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        (_cut, r"model\.safetensors has \d+ of \d+ bytes"),
        (_changed, "tokenizer.json has changed"),
        (lambda folder: (folder / "config.json").unlink(), "config.json: No such file"),
        (lambda folder: (folder / "ORIGIN.json").write_text("{"), "ORIGIN.json cannot be read"),
        (lambda folder: (folder / "ORIGIN.json").write_text("[]"), "ORIGIN.json cannot be read"),
        (lambda folder: (folder / "ORIGIN.json").unlink(), "ORIGIN.json: No such file"),
        (lambda folder: (shutil.rmtree(folder), folder.write_text("")), "Not a directory"),
    ],
)
def test_a_damaged_cache_is_noticed_and_made_again(model, breaks, reason):
    folder, notes = packaged.cached(model), []
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    breaks(folder)
    assert packaged.cached(model, notes.append) == folder
    assert len(notes) == 2
    assert f"{folder} is damaged (" in notes[0]
    assert re.search(reason, notes[0])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    assert _visible(folder.parent) == [folder.name]


def test_another_file_than_the_known_one_is_refused(model, tmp_path):
    other = replace(model, sha256="0" * 64)
    with pytest.raises(
        OSError, match=r"llm-tiny must hold the Tiny that is known here, got .*000…"
    ):
        packaged.cached(other)
    models = tmp_path / "home" / "models"
    assert _visible(models) == []
    assert _scratch(models) == []


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("LICENSE", "llm-tiny must hold its LICENSE, got none; install it again"),
        ("tiny.gguf", r"llm-tiny must hold one \.gguf file, got 0; install it again"),
    ],
)
def test_an_incomplete_package_is_told(model, tmp_path, missing, expected):
    next((tmp_path / "site").rglob(missing)).unlink()
    with pytest.raises(OSError, match=expected):
        packaged.cached(model)
    assert not list(tmp_path.glob("home/models/[!.]*"))


def test_where_the_cache_is(monkeypatch, tmp_path):
    for name in ("GUIDE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert packaged.cache_home() == tmp_path / ".cache" / "guide_ext"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, as its specification says
    assert packaged.cache_home() == tmp_path / ".cache" / "guide_ext"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert packaged.cache_home() == tmp_path / "xdg" / "guide_ext"
    monkeypatch.setenv("GUIDE_HOME", "~/mine")
    assert packaged.cache_home() == tmp_path / "mine"
    for name in ("GUIDE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "")
    with pytest.raises(OSError, match=r"got none; set GUIDE_HOME to one$"):
        packaged.cache_home()


def test_a_home_that_cannot_be_written_is_told(model, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    for home, reason in (
        (tmp_path / "file", "(File exists|Not a directory)"),
        (tmp_path / "file" / "below", "Not a directory"),
        (Path("/proc/none"), "(No such file|Permission denied)"),
    ):
        monkeypatch.setenv("GUIDE_HOME", str(home))
        expected = f"GUIDE_HOME must be a folder .*, got '{home}': {reason}.*; set GUIDE_HOME to "
        with pytest.raises(OSError, match=expected) as caught:
            guide.load("tiny")
        assert "\n" not in str(caught.value)


def test_too_little_room_is_told_before_anything_is_written(model, tmp_path):
    wanting = replace(model, space=1 << 60)
    expected = r"Tiny needs \d+ MB and \d+ MB are free; set GUIDE_HOME to another one$"
    with pytest.raises(OSError, match=expected):
        packaged.cached(wanting)
    assert _visible(tmp_path / "home" / "models") == []


@pytest.mark.parametrize("largest", [1_000, 50_000])  # bytes: a small file fails, or the weights
def test_a_disk_that_fills_midway_leaves_nothing(model, tmp_path, largest):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    models = tmp_path / "home" / "models"
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    try:
        with pytest.raises(
            OSError, match=r"File too large.*; set GUIDE_HOME to another one$"
        ) as caught:
            packaged.cached(model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(caught.value).startswith("GUIDE_HOME must be a folder with room for a model")
    assert _visible(models) == _scratch(models) == []
    assert packaged.damage(packaged.cached(model)) is None


@pytest.mark.parametrize("folder", ["tiny", EMBEDDED])
def test_a_folder_of_the_same_name_does_not_shadow(model, monkeypatch, tmp_path, folder):
    (tmp_path / "here" / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert guide.load(folder, device="cpu")
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        guide.load(f"./{folder}")


def test_a_study_knows_its_weights(model, tmp_path):
    settings = RunSettings(model="tiny", data="python-docs")
    loaded, _ = model_of_run(settings, "cpu")
    folder = packaged.cached(model)
    first = model_hash(settings)
    (folder / "ORIGIN.json").write_text((folder / "ORIGIN.json").read_text() + "\n")
    assert model_hash(settings) == first  # how it was made is not what it is
    file = tmp_path / "site" / "llm_tiny" / "tiny.gguf"
    of_file = [RunSettings(model=str(place), data="python-docs") for place in (file, file.parent)]
    assert torch.equal(model_of_run(of_file[0], "cpu")[0].lm_head.weight, loaded.lm_head.weight)
    assert len({first, *map(model_hash, of_file)}) == 3
    before = model_hash(of_file[0])
    file.write_bytes(file.read_bytes() + b"\0")
    assert model_hash(of_file[0]) != before


def test_the_names_are_those_that_the_shell_completes():
    assert [name for name in complete_model("") if name[-1] != "/" and ".gguf" not in name] == [
        EMBEDDED, *packaged.PACKAGED
    ]  # fmt: skip


def _start(model):
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, json.dumps(asdict(model))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.long
def test_of_several_processes_one_converts_and_the_others_wait(model, tmp_path):
    processes = [_start(model) for _ in range(3)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    lines = [line for output, _ in outputs for line in output.splitlines()]
    assert sum(line.startswith("note converting") for line in lines) == 1
    assert len({line for line in lines if line.startswith("folder")}) == 1
    assert packaged.damage(packaged.cached(model)) is None
    assert _scratch(tmp_path / "home" / "models") == []


@pytest.mark.long
def test_who_finds_the_lock_taken_says_so_and_waits(model, tmp_path):
    import fcntl

    models = tmp_path / "home" / "models"
    models.mkdir(parents=True)
    with (models / f".tiny-{model.sha256[:12]}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = _start(model)
        assert process.stdout.readline().startswith("note waiting for another process, which makes")
        assert process.poll() is None
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output.startswith("note converting")


@pytest.mark.long
def test_a_kill_midway_leaves_nothing_that_is_taken_for_a_model(model, tmp_path):
    models = tmp_path / "home" / "models"
    process = _start(model)
    end = time.monotonic() + 120
    # Killed once the first file of the scratch folder is there.
    while not list(models.glob(".*.tmp/*")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.0005)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert _visible(models) == []
    assert len(_scratch(models)) == 1
    notes = []
    folder = packaged.cached(model, notes.append)
    assert [note.split()[0] for note in notes] == ["converting"]
    assert packaged.damage(folder) is None
    assert _scratch(models) == []
