"""Files are written whole or not at all, wherever the package writes one."""

import ast
import os
import stat
from pathlib import Path

import pytest

import guide_ext
from guide_ext.calibration.calibration import Calibration
from guide_ext.demo.demo import save_result
from guide_ext.studies.run.shards import read_shard, write_shard
from guide_ext.support.files import is_scratch, json_text, write_bytes, write_text

PACKAGE = Path(guide_ext.__file__).parent


def test_a_file_is_replaced_and_keeps_its_mode_and_its_links(tmp_path):
    path, link = tmp_path / "a.txt", tmp_path / "link"
    write_text(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    usual = stat.S_IMODE(path.stat().st_mode)
    plain = tmp_path / "plain"
    plain.touch()
    assert usual == stat.S_IMODE(plain.stat().st_mode)
    path.chmod(0o640)
    link.symlink_to("a.txt")
    write_bytes(link, b"new")
    assert link.is_symlink()
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert {one.name for one in tmp_path.iterdir()} == {"a.txt", "link", "plain"}


def test_names_may_be_as_long_as_names_can_be(tmp_path):
    path = tmp_path / ("a" * 255)
    write_text(path, "whole")
    assert path.read_text() == "whole"


def test_a_pipe_is_written_to(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_text(pipe, "through")
        assert os.read(reader, 100) == b"through"
        assert stat.S_ISFIFO(pipe.stat().st_mode)
    finally:
        os.close(reader)


def fail_to_write(monkeypatch):
    write = Path.write_bytes

    def half(path, content):
        write(path, content[: len(content) // 2])
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", half)


def fail_to_replace(monkeypatch):
    def refuse(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", refuse)


@pytest.mark.parametrize("fail", [fail_to_write, fail_to_replace])
@pytest.mark.parametrize("before", [b"old", None])
def test_what_fails_leaves_the_old_file_or_none(tmp_path, monkeypatch, fail, before):
    path = tmp_path / "a.txt"
    if before is not None:
        path.write_bytes(before)
    with monkeypatch.context() as patch:
        fail(patch)
        with pytest.raises((OSError, KeyboardInterrupt)) as caught:
            write_bytes(path, b"content")
    if fail is fail_to_write:
        assert caught.value.filename == str(path)
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [before] * (before is not None)


@pytest.mark.parametrize("place", ["no-such-folder/a.txt", "folder", "file/a.txt"])
def test_the_path_is_named(tmp_path, place):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the path is what is asserted
        write_text(tmp_path / place, "a")
    assert caught.value.filename == str(tmp_path / place)
    assert {one.name for one in tmp_path.iterdir()} == {"folder", "file"}


def test_scratch_files_are_known(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("os.replace", lambda scratch, _: seen.append(Path(scratch)))
    write_text(tmp_path / "a.txt", "a")
    assert is_scratch(seen[0])
    assert not is_scratch(tmp_path / "a.txt")
    assert seen[0].parent == tmp_path


HALF = "half \ud800 of a pair"


def test_half_of_a_pair_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    for before in ([], [b"old"]):
        if before:
            path.write_bytes(before[0])
        with pytest.raises(ValueError, match="half of a surrogate pair at character 5"):
            write_text(path, HALF)
        assert [one.read_bytes() for one in tmp_path.iterdir()] == before


def test_records_keep_half_of_a_pair(tmp_path):
    record = {HALF: [HALF, "é", 0.5, None]}
    write_shard(tmp_path / "cells" / "a.json", record)
    assert read_shard(tmp_path / "cells" / "a.json") == record
    assert json_text("é") == '"é"'
    with pytest.raises(ValueError, match="Out of range"):
        json_text(float("nan"))
    result = save_result({"answers": [HALF]}, tmp_path / "demo")
    assert "\\ud800" in result.read_text(encoding="utf-8")


def test_a_calibration_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "delta.json"
    found = Calibration(0.5, 0.2, (0.49, 0.5), ((0.0, 0.1), (0.5, 0.2)), (0.5,), 6, model=HALF)
    found.save(path)
    assert Calibration.load(path) == found
    with monkeypatch.context() as patch:
        fail_to_write(patch)
        with pytest.raises(OSError, match="No space left"):
            found.save(path)
    assert Calibration.load(path) == found


def _writes(call):
    """Tell whether a call of the source writes a file by itself."""
    name = getattr(call.func, "attr", getattr(call.func, "id", None))
    owner = getattr(getattr(call.func, "value", None), "id", None)
    if name == "savefig":
        return getattr(call.args[0], "id", None) != "picture"  # a picture in memory
    if name == "open":
        modes = [one.value for one in call.args if isinstance(one, ast.Constant)]
        return any(isinstance(mode, str) and set(mode) & set("wax+") for mode in modes)
    is_method = isinstance(call.func, ast.Attribute) and owner != "files"
    return is_method and name in ("write_text", "write_bytes")


def test_nothing_else_writes_files():
    """A checkpoint and a converted model are folders that are renamed when they are whole; a lock
    and the null device hold nothing."""
    allowed = {
        "support/files.py",
        "integration/packaged.py",
        "studies/training/checkpoints.py",
        "studies/run/folder.py",
        "cli/streams.py",
    }
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and _writes(node)
    }
    assert found == allowed
