# SPDX-License-Identifier: MIT
"""Checkpoints in one GGUF file: which file a name means, its header, and what transformers reads.

transformers reads the weights. What it would drop without a word (scaled positions, tensors that
its model has no place for) is an error here.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from transformers import PreTrainedModel, modeling_gguf_pytorch_utils
from transformers.utils import logging

from guide_ext.support.extras import check_installed, require

SUFFIX = ".gguf"
_PURPOSE = "to read GGUF files"
_MAGIC = b"GGUF"
_VERSIONS = (2, 3)  # no file in the wild still uses 1
_ALIGNMENT = 32  # of the data, where the metadata have none
_NUMBERS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself.

    Attributes:
        path: The file.
        values: Its metadata; of an array, only the number of its elements.
        tensors: Shape of each tensor.

    """

    path: Path
    values: dict[str, Any]
    tensors: dict[str, tuple[int, ...]]

    @property
    def architecture(self) -> str:
        """Name of the architecture."""
        return str(self.values["general.architecture"])


def gguf_file(name: str) -> Path | None:
    """Return the GGUF file that the name of a model means; None if it means something else.

    Args:
        name: A file, or a folder that holds one and no ``config.json``.

    Raises:
        OSError: If it is a GGUF file by its name and does not exist, or a folder with several.

    Example:
        >>> gguf_file("some/model") is None
        True
        >>> gguf_file("some/model.gguf")
        Traceback (most recent call last):
        ...
        FileNotFoundError: model must be a .gguf file that exists, got 'some/model.gguf'

    """
    path = Path(name)
    if path.is_dir():
        if any((path / file).is_file() for file in ("config.json", "adapter_config.json")):
            return None
        found = sorted(file for file in path.iterdir() if file.suffix == SUFFIX and file.is_file())
        if len(found) > 1:
            raise OSError(
                f"model must be a folder with one .gguf file, got {name!r} with {len(found)}: "
                f"{', '.join(file.name for file in found)}; name one of them"
            )
        return found[0] if found else None
    if path.suffix != SUFFIX:
        return None
    if not path.is_file():
        raise FileNotFoundError(f"model must be a .gguf file that exists, got {name!r}")
    return path


def check_packages(purpose: str) -> None:
    """Check that all packages are installed that a GGUF file needs.

    Args:
        purpose: What they are needed for; part of the error message.

    Raises:
        MissingPackageError: If one is not.

    """
    # For accelerate, transformers asks late and in passing.
    for package in ("gguf", "accelerate"):
        check_installed(package, purpose)


def check_gguf(path: Path) -> Header:
    """Check that a file is a whole GGUF file of an architecture that transformers reads.

    Args:
        path: The file.

    Returns:
        Its header.

    Raises:
        MissingPackageError: If gguf or accelerate is not installed.
        OSError: If it cannot be read, is cut off, or is something else; the message is one
            sentence.

    """
    check_packages(_PURPOSE)
    header = read_header(path)
    known = readable_architectures()
    if _plain(header.architecture) not in map(_plain, known):
        raise OSError(
            f"model must be a GGUF file of an architecture that transformers reads, got "
            f"{str(path)!r} of the architecture {header.architecture!r}; it reads "
            f"{', '.join(known)}"
        )
    return header


def readable_architectures() -> list[str]:
    """Return the architectures that the installed transformers reads from GGUF files."""
    known = set(modeling_gguf_pytorch_utils.GGUF_SUPPORTED_ARCHITECTURES) - {"general"}
    try:  # transformers 5.24 has a second loader, with a table of its own
        from transformers.integrations.gguf import GGUF_CONFIG_ARCHS
    except ImportError:
        return sorted(known)
    return sorted(known | set(GGUF_CONFIG_ARCHS))


def ordinary(model: PreTrainedModel, header: Header, dtype: torch.dtype) -> PreTrainedModel:
    """Return a model with the weights of one that transformers has read from a GGUF file.

    That one calls itself quantised, although its weights are not any more, and refuses to be saved.

    Args:
        model: What transformers read, in float32.
        header: Header of the file.
        dtype: Dtype of the result.

    Raises:
        OSError: If the file holds what the model lacks.

    """
    _check_complete(model, header)
    values = {k: v for k, v in model.config.to_dict().items() if k != "quantization_config"}
    config = type(model.config).from_dict(values)
    with torch.random.fork_rng(devices=[]):  # the initial values, which are replaced
        fresh = type(model)(config)
    fresh.load_state_dict(model.state_dict())
    fresh.generation_config = model.generation_config
    fresh.config.dtype = dtype
    # Where the checkpoint is, for messages and for what fine-tunes it.
    fresh.name_or_path = fresh.config.name_or_path = str(header.path)
    result: PreTrainedModel = fresh.to(dtype)
    return result


def _check_complete(model: PreTrainedModel, header: Header) -> None:
    """Raise OSError if something that the file holds had no place in the model."""
    config = model.config.get_text_config()
    # Llama 3.1 and Phi 3 scale by a tensor (rope_freqs.weight), others by a formula.
    tensors = [name for name in header.tensors if name.startswith("rope_")]
    scaling = header.values.get(f"{header.architecture}.rope.scaling.type", "none")
    scaling = next(iter(tensors), scaling)
    rope = getattr(config, "rope_parameters", None) or {}
    if scaling != "none" and rope.get("rope_type", "default") == "default":
        raise OSError(
            "model must be a GGUF file whose positions transformers reads, got "
            f"{str(header.path)!r} with the scaling {scaling!r}, which transformers drops for "
            f"{header.architecture!r}"
        )
    layers = getattr(config, "num_hidden_layers", None)
    held = sum(prod(shape) for name, shape in header.tensors.items() if _is_used(name, layers))
    placed = sum(parameter.numel() for parameter in model.parameters())  # shared ones count once
    if held != placed:
        raise OSError(
            f"model must be a GGUF file whose weights transformers reads all, got "
            f"{str(header.path)!r} with {held} numbers, for a model of {placed}"
        )


def _is_used(tensor: str, layers: int | None) -> bool:
    """Return whether a tensor belongs to the model; blocks beyond its layers only guess ahead."""
    parts = tensor.split(".")
    is_block = parts[0] == "blk" and parts[1].isdecimal()
    return not (is_block and layers is not None and int(parts[1]) >= layers)


@contextmanager
def without_gguf_bars() -> Iterator[None]:
    """Keep transformers' reader from drawing its bar where its other bars are switched off.

    It asks tqdm itself, and not transformers' switch.
    """
    reader: Any = modeling_gguf_pytorch_utils
    bar = getattr(reader, "tqdm", None)
    if bar is None or logging.is_progress_bar_enabled():
        yield
        return
    reader.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        reader.tqdm = bar


def read_header(path: Path) -> Header:
    """Read the header of a GGUF file, and check that the file has all its data.

    Args:
        path: The file.

    Raises:
        OSError: If it is no GGUF file, or cut off; the message is one sentence.

    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != _MAGIC:
            raise OSError(
                f"model must be a GGUF file, got {str(path)!r}, which holds something else"
            )
        try:
            header, needed = _read_header(path, file)
        except (struct.error, EOFError):
            raise OSError(
                f"model must be a whole GGUF file, got {str(path)!r}, whose header is cut off "
                f"after {size} bytes"
            ) from None
        except (KeyError, UnicodeDecodeError, OverflowError, MemoryError) as error:
            raise OSError(
                f"model must be a GGUF file, got {str(path)!r}, whose header cannot be read: "
                f"{type(error).__name__}: {error}"
            ) from None
    if size < needed:
        raise OSError(
            f"model must be a whole GGUF file, got {str(path)!r} with {size} of {needed} bytes"
        )
    return header


def _read_header(path: Path, file: BinaryIO) -> tuple[Header, int]:
    """Read a header; return it and the number of bytes that the file must have."""
    (version,) = _numbers(file, "<I")
    if version not in _VERSIONS:
        raise OSError(
            f"model must be a GGUF file of version {' or '.join(map(str, _VERSIONS))}, got "
            f"{str(path)!r} of version {version}"
        )
    tensors, count = _numbers(file, "<QQ")
    values = {}
    for _ in range(count):
        name = _string(file)
        values[name] = _value(file, *_numbers(file, "<I"))
    if "general.architecture" not in values:
        raise OSError(f"model must be a GGUF file with its architecture, got {str(path)!r}")
    sizes = require("gguf", _PURPOSE).GGML_QUANT_SIZES
    shapes, end = {}, 0
    for _ in range(tensors):
        name = _string(file)
        (dimensions,) = _numbers(file, "<I")
        shape = shapes[name] = _numbers(file, f"<{dimensions}Q")
        kind, offset = _numbers(file, "<IQ")
        block, block_bytes = sizes[kind]
        end = max(end, offset + prod(shape) // block * block_bytes)
    alignment = values.get("general.alignment", _ALIGNMENT)
    return Header(path, values, shapes), -(-file.tell() // alignment) * alignment + end


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _numbers(file, _NUMBERS[kind])[0]
    element, count = _numbers(file, "<IQ")
    if element in _NUMBERS:
        _skip(file, count * struct.calcsize(_NUMBERS[element]))
    else:
        for _ in range(count):
            if element == _STRING:
                _skip(file, *_numbers(file, "<Q"))
            else:
                _value(file, element)
    return count


def _string(file: BinaryIO) -> str:
    (length,) = _numbers(file, "<Q")
    text = file.read(length) if length <= os.fstat(file.fileno()).st_size else b""
    if len(text) < length:
        raise EOFError
    return text.decode("utf-8")


def _numbers(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _skip(file: BinaryIO, count: int) -> None:
    if file.tell() + count > os.fstat(file.fileno()).st_size:
        raise EOFError
    file.seek(count, os.SEEK_CUR)


def _plain(architecture: str) -> str:
    """Return a name without what llama.cpp and transformers spell differently (qwen2moe)."""
    return architecture.replace("-", "").replace("_", "")
