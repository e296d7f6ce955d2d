# SPDX-License-Identifier: MIT
"""Shards: whole or not there, and damage is noticed."""

import pytest

from guide_ext.studies.run import shards


class TestShards:
    def test_damage_is_noticed(self, tmp_path):
        path = tmp_path / "a" / "b.json"
        shards.write_shard(path, {"text": "é", "delta": 2.0})
        assert shards.read_shard(path) == {"text": "é", "delta": 2.0}
        whole = path.read_bytes()
        for damaged in (b"", whole[:-9], whole.replace(b"2.0", b"2.5"), b"[]", b"{}", b"\xff"):
            path.write_bytes(damaged)
            with pytest.raises(shards.CorruptShardError, match=r"b\.json must hold a record"):
                shards.read_shard(path)
        moved = shards.set_aside(path)
        assert not path.exists()
        assert moved.exists()

    def test_a_write_that_fails_leaves_what_was(self, tmp_path, monkeypatch):
        path = tmp_path / "b.json"
        shards.write_shard(path, {"a": 1})

        def full(*arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(shards.os, "replace", full)
        with pytest.raises(OSError, match="free some space and run the same command again"):
            shards.write_shard(path, {"a": 2})
        assert shards.read_shard(path) == {"a": 1}
        assert [entry.name for entry in tmp_path.iterdir()] == ["b.json"]

    def test_folder_that_cannot_be(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="make it writable"):
            shards.write_shard(tmp_path / "file" / "b.json", {})
