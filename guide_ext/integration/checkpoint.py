# SPDX-License-Identifier: MIT
"""Read checkpoints; say in one sentence why one cannot be read; choose a dtype for the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.utils import logging

from guide_ext.integration.gguf import (
    Header,
    check_gguf,
    gguf_file,
    ordinary,
    without_gguf_bars,
)
from guide_ext.integration.model.own_attention import EAGER, has_own_attention
from guide_ext.machine.processor import why_slow

T = TypeVar("T")

_EXPECTED = "model must be a checkpoint folder or a hub id"
_EXPECTED_GGUF = "model must be a GGUF file"
_EXPECTED_NAME = (
    "model must be a checkpoint folder, a .gguf file, a hub id, 'embedded' or 'smollm2'"
)
# Every folder that a tokenizer was saved to has one of these.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json",
                    "vocab.txt", "spiece.model", "tekken.json")  # fmt: skip


def read_tokenizer(name: str) -> Any:
    """Load a tokenizer with padding on the left.

    Args:
        name: A local folder, a GGUF file or a hub id.

    Raises:
        OSError: If it cannot be found or read; the message is one sentence.
        MissingPackageError: If it is a GGUF file and gguf is not installed.

    """
    if header := _header(name):
        return _read(str(header.path), "tokenizer", lambda: AutoTokenizer.from_pretrained(
            header.path.parent, gguf_file=header.path.name, padding_side="left"
        ))  # fmt: skip
    _check_place(name)
    folder = Path(name)
    if folder.is_dir() and not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        raise FileNotFoundError(
            f"{_EXPECTED} with a tokenizer, got {name!r}, which has none (no {_TOKENIZER_FILES[0]} "
            "or the like); save one there with tokenizer.save_pretrained()"
        )
    return _read(
        name, "tokenizer", lambda: AutoTokenizer.from_pretrained(name, padding_side="left")
    )


def read_model(name: str, *, dtype: str, device: torch.device) -> PreTrainedModel:
    """Load a language model into main memory: a decoder, or an encoder–decoder.

    Args:
        name: A local folder, a GGUF file or a hub id.
        dtype: Dtype of the weights. ``"auto"`` is the one that they are stored in, or float32 if
            the model is to run on a processor that is slow in that dtype, or is a GGUF file.
        device: Where the model is to run.

    Raises:
        OSError: If it cannot be found or read, or weights are missing or of another size; the
            message is one sentence.
        ValueError: If it is neither.
        MissingPackageError: If it is a GGUF file and gguf is not installed.

    """
    if header := _header(name):
        return _load_gguf(header, "float32" if dtype == "auto" else dtype)
    check_model(name)
    chosen, kind = dtype, AutoModelForCausalLM
    if not _is_adapter(name):
        config = _read(name, "configuration", lambda: AutoConfig.from_pretrained(name))
        kind = _kind_of(name, config)
        if dtype == "auto" and device.type == "cpu" and _is_slow(config, _stored(config)):
            chosen = "float32"
    model = _load(name, chosen, kind=kind)
    own: dict[str, str] = {}
    if has_own_attention(model) and model.config._attn_implementation != EAGER:
        # Its mask is one that a bias can be added to under eager attention alone.
        own = {"attn_implementation": EAGER}
        model = _load(name, chosen, kind=kind, **own)
    # A configuration need not say how its weights are stored.
    parameters = {parameter.dtype for parameter in model.parameters()}
    if chosen == "auto" and device.type == "cpu" and _is_slow(model.config, parameters):
        model = _load(name, "float32", kind=kind, **own)
    return model


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep transformers and the hub from drawing progress bars inside a ``with`` block.

    In a file, bars become endless lines; next to bars of our own, neither can be read.
    """
    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def check_model(name: str) -> None:
    """Raise OSError if a name cannot be that of a model, before its weights are read."""
    if _header(name):
        return
    _check_place(name)
    folder = Path(name)
    if folder.is_dir() and not _is_adapter(name) and not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{_EXPECTED}, got the folder {name!r}, which has no config.json; save a model there "
            "with model.save_pretrained(), or put one .gguf file there"
        )


def _header(name: str) -> Header | None:
    """Return the header of the GGUF file that a name means, checked; None if it means none."""
    path = gguf_file(name)
    return None if path is None else check_gguf(path)


def _is_adapter(name: str) -> bool:
    """Return whether a folder holds only an adapter, whose configuration names its model."""
    folder = Path(name)
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def _kind_of(name: str, config: Any) -> Any:
    """Return the class that loads a checkpoint: a decoder, or with an encoder in front of it."""
    has_encoder = getattr(config, "is_encoder_decoder", False)
    known = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING if has_encoder else MODEL_FOR_CAUSAL_LM_MAPPING
    if type(config) not in known and not hasattr(config, "auto_map"):
        raise ValueError(
            f"{_expected(name)} of a causal language model or an encoder–decoder of text, got "
            f"{name!r}, whose model type {config.model_type!r} is none"
        )
    return AutoModelForSeq2SeqLM if has_encoder else AutoModelForCausalLM


def _load_gguf(header: Header, dtype: str) -> PreTrainedModel:
    name, folder, file = str(header.path), str(header.path.parent), header.path.name
    config = _read(
        name, "configuration", lambda: AutoConfig.from_pretrained(folder, gguf_file=file)
    )
    kind = _kind_of(name, config)
    with without_gguf_bars():
        model = _load(name, "float32", folder, kind=kind, gguf_file=file)
    return ordinary(model, header, getattr(torch, dtype))


def _load(
    name: str, dtype: str, place: str | None = None, *, kind: Any, **source: str
) -> PreTrainedModel:
    def load() -> tuple[PreTrainedModel, dict[str, Any]]:
        found: tuple[PreTrainedModel, dict[str, Any]] = kind.from_pretrained(
            place or name, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True,
            **source,
        )  # fmt: skip
        return found

    model, report = _read(name, "weights", load)
    # transformers replaces weights that are missing or do not fit by random numbers, with a note.
    missing = sorted(set(report["missing_keys"]) & {key for key, _ in model.named_parameters()})
    if missing:
        raise OSError(
            f"{_expected(name)} with all its weights, got {name!r}, in which {len(missing)} are "
            f"missing, such as {missing[0]}"
        )
    mismatched = sorted(key for key, *_ in report["mismatched_keys"])
    if mismatched:
        raise OSError(
            f"{_expected(name)} whose weights have the sizes of its configuration, got {name!r}, "
            f"in which {len(mismatched)} have others, such as {mismatched[0]}"
        )
    return model


def _expected(name: str) -> str:
    """Return what a model must be, for a message about one whose name is right."""
    return _EXPECTED if gguf_file(name) is None else _EXPECTED_GGUF


def _is_slow(config: Any, dtypes: set[torch.dtype]) -> bool:
    """Return whether the processor is slow in one of these dtypes; False for quantised weights."""
    if getattr(config, "quantization_config", None) is not None:
        return False
    return any(why_slow(dtype) is not None for dtype in dtypes)


def _stored(config: Any) -> set[torch.dtype]:
    """Return the dtypes that a configuration and its parts name."""
    return {
        part.dtype
        for part in _parts(config)
        if isinstance(getattr(part, "dtype", None), torch.dtype)
    }


def _parts(config: Any) -> Iterator[Any]:
    yield config
    for name in getattr(config, "sub_configs", {}):
        part = getattr(config, name, None)
        if part is not None and part is not config:
            yield from _parts(part)


def _check_place(name: str) -> None:
    """Raise OSError if a name is neither a local folder nor possibly a hub id."""
    path = Path(name)
    if name and path.is_dir():
        return
    if name and path.exists():
        raise NotADirectoryError(f"{_EXPECTED_NAME}, got the file {name!r}")
    # "a/b" may be either; a name that cannot be an id was meant as a path.
    if not name or name.count("/") > 1 or name.startswith((".", "~", "/")) or name.endswith("/"):
        raise FileNotFoundError(f"{_EXPECTED_NAME}, got {name!r}: there is no such folder")


def _read(name: str, what: str, load: Callable[[], T]) -> T:
    """Load a part of a checkpoint; on failure, raise OSError that gives the reason in one sentence.

    The libraries below raise many kinds of errors: KeyError, TypeError, exceptions of their own.
    """
    try:
        return load()
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = _reason(error)
        if os.path.exists(name):
            kind = "folder" if os.path.isdir(name) else "file"
            raise OSError(
                f"{_expected(name)}, got the {kind} {name!r}, whose {what} cannot be read: {reason}"
            ) from error
        raise OSError(
            f"{_EXPECTED}, got {name!r}, which is no folder here, and whose {what} cannot be had "
            f"from the hub: {reason}"
        ) from error


def _reason(error: Exception) -> str:
    """Return the first line of an error, after its type if the line alone says too little."""
    line = next(iter(str(error).strip().splitlines()), "").strip()
    kind = type(error).__name__
    return line if " " in line and isinstance(error, OSError | ValueError) else f"{kind}: {line}"
