# SPDX-License-Identifier: MIT
"""Checkpoints of supervised fine-tuning: folders that are there whole or not at all.

A checkpoint is written beside its place, flushed to the disk and renamed; checksums of its files
show later damage. It holds peft's adapter, the state of the optimiser, and the identity of its run.
It needs no state of a schedule or a random generator: learning rate, order of the samples and
dropout follow from the settings and the number of the step.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guide_ext.embedded import EMBEDDED, is_embedded

CHECKPOINT_FILE = "checkpoint.json"
_KIND = "guide_ext adapter checkpoint"
_FORMAT = 1
_CHUNK = 1 << 20
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """An adapter after some training.

    Attributes:
        tokens: Number of tokens trained on, with those of prompts and in every epoch.
        path: Folder of the adapter, for :func:`guide_ext.integration.lora.load_adapted`.
        steps: Number of optimiser steps.
        loss: Mean loss since the previous checkpoint, in nats per answer token; None without a
            step.

    """

    tokens: int
    path: Path
    steps: int = 0
    loss: float | None = None


def write_checkpoint(
    checkpoint: Checkpoint,
    write_files: Callable[[Path], None],
    *,
    identity: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """Write a checkpoint. A kill at any moment leaves a whole one or none.

    Args:
        checkpoint: Its numbers and its path; a damaged checkpoint there is replaced.
        write_files: Writes the files into an empty folder.
        identity: What a run must have in common with it to go on from it.
        facts: More to record: versions, machine.

    """
    unfinished = checkpoint.path.with_name(f".{checkpoint.path.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    write_files(unfinished)
    record = {
        "kind": _KIND,
        "format": _FORMAT,
        "tokens": checkpoint.tokens,
        "steps": checkpoint.steps,
        "loss": checkpoint.loss,
        "run": dict(identity),
        **facts,
        "sha256": {path.name: _sha256(path) for path in sorted(unfinished.iterdir())},
    }
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    (unfinished / CHECKPOINT_FILE).write_text(text, encoding="utf-8")
    for path in (*unfinished.iterdir(), unfinished):
        _flush(path)
    if checkpoint.path.exists():
        shutil.rmtree(checkpoint.path)
    unfinished.rename(checkpoint.path)
    _flush(checkpoint.path.parent)


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Return the checkpoint in a folder; None if there is none, or, with a warning, a damaged one.

    Args:
        path: Folder of the checkpoint; need not exist.

    """
    if not path.exists():
        return None
    try:
        record = _record(path)
        for name, wanted in record["sha256"].items():
            if _sha256(path / name) != wanted:
                msg = f"{name} has changed since it was written"
                raise ValueError(msg)
        return Checkpoint(record["tokens"], path, record["steps"], record["loss"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _LOGGER.warning("the checkpoint %s is damaged and is trained again: %s", path, error)
        return None


def check_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    """Refuse a folder with checkpoints of another run.

    Args:
        folder: Folder of the checkpoints; need not exist.
        identity: The identity that :func:`write_checkpoint` is given.

    Raises:
        ValueError: If a checkpoint has another identity; the message names the differences.

    """
    wanted = json.loads(json.dumps(identity))
    for path in sorted(folder.glob(f"tokens-*/{CHECKPOINT_FILE}")):
        try:
            found = dict(_record(path.parent)["run"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # damaged: read_checkpoint warns
        if is_embedded(str(found.get("model"))):
            found["model"] = EMBEDDED  # earlier versions wrote the folder
        if found != wanted:
            msg = (
                f"{folder} must hold checkpoints of this run, got others: "
                f"{', '.join(_differences(found, wanted))}; choose another folder or delete it"
            )
            raise ValueError(msg)


def _record(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((path / CHECKPOINT_FILE).read_text(encoding="utf-8"))
    if (record["kind"], record["format"]) != (_KIND, _FORMAT):
        msg = f"{CHECKPOINT_FILE} is none of format {_FORMAT}"
        raise ValueError(msg)
    return record


def _differences(found: Any, wanted: Any, name: str = "") -> list[str]:
    """Name the values in which two records differ."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        names = [*wanted, *(key for key in found if key not in wanted)]
        return [
            line for key in names for line in _differences(found.get(key), wanted.get(key), key)
        ]
    return [] if found == wanted else [f"{name} {found!r} there, {wanted!r} here"]


def _sha256(path: Path) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()


def _flush(path: Path) -> None:
    """Flush a file or folder to the disk, where the system can."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
