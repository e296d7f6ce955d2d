# SPDX-License-Identifier: MIT
"""The folder of a run: its manifest, documents, cells and tables.

``manifest.json``
    Settings, hashes of model and texts, and for every start versions and machine.
``rows.json``
    The documents, as they were when the run began, and what was left out of the data.
``cells/ab/<key>.json``
    One shard for each cell: ``status`` is ``"done"``, or ``"failed"`` with an ``error``.
``tables.json``, ``tables.md``
    The tables that the cells give.
"""

from __future__ import annotations

import errno
import hashlib
import json
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from guide_ext.machine.facts import machine_facts
from guide_ext.studies.cells import Cell, Row
from guide_ext.studies.data import python_docs
from guide_ext.studies.data.documents import PYTHON_DOCS, BadDocument
from guide_ext.studies.plan import RunSettings
from guide_ext.studies.registry import STUDIES
from guide_ext.studies.run.engine import model_files
from guide_ext.studies.run.shards import (
    CorruptShardError,
    read_shard,
    save_text,
    set_aside,
    write_shard,
)
from guide_ext.support.extras import MissingPackageError
from guide_ext.support.files import is_scratch, json_text
from guide_ext.support.version import VERSION

MANIFEST, ROWS, CELLS = "manifest.json", "rows.json", "cells"
_LOCK = ".lock"
DONE, FAILED = "done", "failed"
_KIND, _FORMAT = "guide_ext study run", 1
_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "scipy", "py3langid", "peft")
# Of larger files only the size and both ends are hashed: a start should not read 15 GB.
_HASHED_WHOLE = 64 << 20
_HASHED_PART = 1 << 20
# A run may be started again with more studies.
_MAY_GROW = ("studies",)
# Only the tables depend on these.
_MAY_CHANGE = ("bertscore", "bertscore_layer")


@dataclass
class Documents:
    """The documents of a run.

    Attributes:
        rows: The rows, of all tasks.
        bad: What was left out of the data.
        tasks: Names of the tasks that have rows.
        adapters: Numbers of trained tokens after which a fine-tuned model is saved.

    """

    rows: list[Row] = field(default_factory=list)
    bad: list[BadDocument] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    adapters: list[int] = field(default_factory=list)


class RunFolder:
    """A run on disk.

    Args:
        path: Its folder.

    Attributes:
        set_aside: Damaged files that were renamed; their work is done again.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set_aside: list[Path] = []

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder, and keep other processes from running in it at the same time.

        Two processes would do the same work twice, and one would lose the studies of the other.
        The system releases the lock when the process ends, even if it is killed.

        Raises:
            ValueError: If the path cannot be a folder, the folder holds something else, or another
                process runs in it.

        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"--out must be a folder, got {str(self.path)!r}: {error.strerror}"
            ) from None
        names = {entry.name for entry in self.path.iterdir() if not is_scratch(entry)}
        if names - {_LOCK} and MANIFEST not in names:
            raise ValueError(
                f"--out must be an empty folder or hold a run, got {str(self.path)!r} with other "
                "files"
            )
        with (self.path / _LOCK).open("ab") as lock:
            try:
                _lock(lock.fileno())
            except BlockingIOError:
                raise ValueError(
                    "--out must be a folder in which no other process runs, got "
                    f"{str(self.path)!r}; wait for it, or use another --out"
                ) from None
            yield

    def agreed(self, settings: RunSettings) -> RunSettings:
        """Return the settings that a run in this folder would have; write nothing.

        Once it has documents, a run is bound to its settings. A first start that failed before
        that, for example because of a wrong column, binds nothing.

        Args:
            settings: The settings that are wanted now.

        Returns:
            The same, with the studies of all starts.

        Raises:
            ValueError: If the folder holds a run with other settings, weights or texts.
            OSError: If the folder or the model cannot be read.

        """
        if (self.path / MANIFEST).exists():
            manifest = self.manifest()
            if (self.path / ROWS).exists() or (self.path / CELLS).exists():
                settings = self._grown(RunSettings.from_json(manifest["settings"]), settings)
                self._check_files(manifest, settings)
        return settings

    def begin(self, settings: RunSettings) -> None:
        """Write the manifest with one more start.

        Args:
            settings: What `agreed` returned.


        Raises:
            OSError: If the folder cannot be written.

        """
        known = self.manifest() if (self.path / MANIFEST).exists() else {}
        start = {
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": _versions(),
            "machine": machine_facts(),
        }
        manifest = {
            "kind": _KIND,
            "format": _FORMAT,
            "settings": settings.to_json(),
            "model": {"name": settings.model, "sha256": model_hash(settings)},
            "data": data_hash(settings) or known.get("data"),
            "data_origin": known.get("data_origin") or _data_origin(settings),
            "starts": [*known.get("starts", []), start],
        }
        save_text(self.path / MANIFEST, json_text(manifest, indent=1) + "\n")

    def manifest(self) -> dict[str, Any]:
        """Read the manifest.

        Raises:
            ValueError: If the folder holds no run, or one of another version.

        """
        path = self.path / MANIFEST
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError(
                f"run must be a folder with a {MANIFEST}, got {str(self.path)!r}; "
                "'guide-ext study run' makes one"
            ) from None
        except ValueError as error:
            raise ValueError(f"{path} must be JSON, got something else: {error}") from None
        if not isinstance(found, dict) or (found.get("kind"), found.get("format")) != (
            _KIND,
            _FORMAT,
        ):
            raise ValueError(f"{path} must be of a {_KIND} of format {_FORMAT}, got another file")
        missing = [name for name in ("settings", "model", "starts") if name not in found]
        if missing:
            raise ValueError(f"{path} must have {', '.join(missing)}, got {', '.join(found)}")
        return found

    def settings(self) -> RunSettings:
        """Read the settings of the run."""
        return RunSettings.from_json(self.manifest()["settings"])

    def save_documents(self, documents: Documents) -> None:
        """Write the documents."""
        write_shard(self.path / ROWS, asdict(documents))

    def documents(self) -> Documents:
        """Read the documents.

        Raises:
            CorruptShardError: If the file is damaged.
            FileNotFoundError: If the run has not begun.

        """
        record = read_shard(self.path / ROWS)
        return Documents(
            rows=[Row.from_json(value) for value in record["rows"]],
            bad=[BadDocument(**value) for value in record["bad"]],
            tasks=record["tasks"],
            adapters=record["adapters"],
        )

    def save(self, cell: Cell, status: str, result: dict[str, Any]) -> None:
        """Write the shard of a cell, whole or not at all."""
        write_shard(self._shard(cell.key), {**cell.described(), "status": status, **result})

    def record(self, cell: Cell, *, repair: bool = False) -> dict[str, Any] | None:
        """Read the shard of a cell; None if there is none.

        Args:
            cell: The cell.
            repair: Rename a damaged shard instead of raising, so that the cell runs again.

        Raises:
            CorruptShardError: If it is damaged.

        """
        path = self._shard(cell.key)
        try:
            return read_shard(path)
        except FileNotFoundError:
            return None
        except CorruptShardError as error:
            if not repair:
                raise CorruptShardError(
                    f"{error}; run 'guide-ext study run' again: it does this cell once more"
                ) from None
            self.set_aside.append(set_aside(path))
            return None

    def _shard(self, key: str) -> Path:
        return self.path / CELLS / key[:2] / f"{key}.json"

    def _check_files(self, manifest: dict[str, Any], settings: RunSettings) -> None:
        if manifest["model"]["sha256"] != model_hash(settings):
            raise ValueError(
                f"model must have the weights that the run in {self.path} began with, got "
                "others; use another --out"
            )
        # If the file is gone, the run goes on: its documents are in its folder.
        before, now = manifest.get("data"), data_hash(settings)
        if None not in (before, now) and before != now:
            began = manifest.get("data_origin")
            raise ValueError(
                f"data must be the texts that the run in {self.path} began with"
                f"{f', {began}' if began else ''}, got others in "
                f"{_data_origin(settings) or repr(settings.data)}; use another --out"
            )

    def _grown(self, before: RunSettings, wanted: RunSettings) -> RunSettings:
        old, new = before.to_json(), wanted.to_json()
        for name in old:
            if name not in (*_MAY_GROW, *_MAY_CHANGE) and old[name] != new[name]:
                raise ValueError(
                    f"{name} must be {old[name]!r} as in the run in {self.path}, got "
                    f"{new[name]!r}; use another --out"
                )
        names = {*before.studies, *wanted.studies}
        return replace(wanted, studies=tuple(name for name in STUDIES if name in names))


def _lock(descriptor: int) -> None:
    """Lock a file until this process ends; do nothing on a system without such locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise


def model_hash(settings: RunSettings) -> str:
    """Hash the files of the model; of a hub id, only the name."""
    files = model_files(settings)
    if files is None:
        return hashlib.sha256(settings.model.encode()).hexdigest()
    whole = hashlib.sha256()
    for path in files:
        _hash_file(path, whole.update)
    return whole.hexdigest()


def data_hash(settings: RunSettings) -> str | None:
    """Hash the texts; None if they are gone, or of the hub or the embedded world."""
    if settings.data == PYTHON_DOCS:
        try:
            return python_docs.digest()
        except MissingPackageError:
            return None
    path = Path(settings.data or "")
    if not path.is_file():
        return None
    whole = hashlib.sha256()
    _hash_file(path, whole.update, name="")
    return whole.hexdigest()


def _data_origin(settings: RunSettings) -> str | None:
    """Say where the texts are from, if the machine makes a difference; None else."""
    return python_docs.origin() if settings.data == PYTHON_DOCS else None


def _hash_file(path: Path, update: Callable[[bytes], None], name: str | None = None) -> None:
    size = path.stat().st_size
    update(f"{path.name if name is None else name} {size} ".encode())
    with path.open("rb") as file:
        if size <= _HASHED_WHOLE:
            update(file.read())
        else:
            update(file.read(_HASHED_PART))
            file.seek(-_HASHED_PART, 2)
            update(file.read())


def _versions() -> dict[str, str]:
    found = {"guide_ext": VERSION, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
