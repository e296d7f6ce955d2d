# SPDX-License-Identifier: MIT
"""Read checkpoints: what is wrong with one, in one sentence; which dtype suits the processor."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.utils import logging

from guide_ext.machine.processor import why_slow

T = TypeVar("T")

_EXPECTED = "model must be a checkpoint folder or a hub id"
# One of these is in every folder that a tokenizer was saved to.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json",
                    "vocab.txt", "spiece.model", "tekken.json")  # fmt: skip


def read_tokenizer(name: str) -> Any:
    """Load a tokenizer, padding left.

    Args:
        name: A local folder or a hub id.

    Raises:
        OSError: It cannot be found or read; in one sentence.

    """
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
    """Load a causal language model into main memory.

    Args:
        name: A local folder or a hub id.
        dtype: Of the weights; ``"auto"`` for that of the checkpoint, or float32 where the model is
            to run on a processor that is slow in it.
        device: Where it is to run.

    Raises:
        OSError: It cannot be found or read, or its weights are not all there; in one sentence.
        ValueError: It is no causal language model.

    """
    check_model(name)
    chosen = dtype
    if not _is_adapter(name):
        config = _read(name, "configuration", lambda: AutoConfig.from_pretrained(name))
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not hasattr(config, "auto_map"):
            raise ValueError(
                f"{_EXPECTED} of a causal language model, got {name!r}, whose model type "
                f"{config.model_type!r} is none"
            )
        if dtype == "auto" and device.type == "cpu" and _is_slow(config, _stored(config)):
            chosen = "float32"
    model = _load(name, chosen)
    # A configuration need not say how its weights are stored.
    parameters = {parameter.dtype for parameter in model.parameters()}
    if chosen == "auto" and device.type == "cpu" and _is_slow(model.config, parameters):
        model = _load(name, "float32")
    return model


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep transformers and the hub from drawing bars, inside a ``with`` block.

    In a file they are lines without end, and beside bars of others neither can be read.
    """
    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def check_model(name: str) -> None:
    """Raise OSError where no model can be, before anything is read."""
    _check_place(name)
    folder = Path(name)
    if folder.is_dir() and not _is_adapter(name) and not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{_EXPECTED}, got the folder {name!r}, which has no config.json; save a model there "
            "with model.save_pretrained()"
        )


def _is_adapter(name: str) -> bool:
    """Tell whether a folder holds an adapter alone, which names its model."""
    folder = Path(name)
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def _load(name: str, dtype: str) -> PreTrainedModel:
    def load() -> tuple[PreTrainedModel, dict[str, Any]]:
        found: tuple[PreTrainedModel, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
        return found

    model, report = _read(name, "weights", load)
    # transformers makes random numbers of what is not there or does not fit, and says so in a note.
    missing = sorted(set(report["missing_keys"]) & {key for key, _ in model.named_parameters()})
    if missing:
        raise OSError(
            f"{_EXPECTED} with all its weights, got {name!r}, in which {len(missing)} are missing, "
            f"such as {missing[0]}"
        )
    mismatched = sorted(key for key, *_ in report["mismatched_keys"])
    if mismatched:
        raise OSError(
            f"{_EXPECTED} whose weights have the sizes of its configuration, got {name!r}, in "
            f"which {len(mismatched)} have others, such as {mismatched[0]}"
        )
    return model


def _is_slow(config: Any, dtypes: set[torch.dtype]) -> bool:
    """Tell whether the processor is slow in one of these; quantised weights stay as they are."""
    if getattr(config, "quantization_config", None) is not None:
        return False
    return any(why_slow(dtype) is not None for dtype in dtypes)


def _stored(config: Any) -> set[torch.dtype]:
    """Return the dtypes that a configuration names, its parts' too."""
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
    """Raise OSError where a name can be neither a folder here nor an id of the hub."""
    path = Path(name)
    if name and path.is_dir():
        return
    if name and path.exists():
        raise NotADirectoryError(f"{_EXPECTED}, got the file {name!r}")
    # "a/b" may be both; what no id can be was meant as a path.
    if not name or name.count("/") > 1 or name.startswith((".", "~", "/")) or name.endswith("/"):
        raise FileNotFoundError(f"{_EXPECTED}, got {name!r}: there is no such folder")


def _read(name: str, what: str, load: Callable[[], T]) -> T:
    """Load something of a checkpoint; raise OSError that says in one sentence what went wrong.

    The libraries below raise nearly everything: KeyError, TypeError, their own exceptions.
    """
    try:
        return load()
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = _reason(error)
        if os.path.isdir(name):
            raise OSError(
                f"{_EXPECTED}, got the folder {name!r}, whose {what} cannot be read: {reason}"
            ) from error
        raise OSError(
            f"{_EXPECTED}, got {name!r}, which is no folder here, and whose {what} cannot be had "
            f"from the hub: {reason}"
        ) from error


def _reason(error: Exception) -> str:
    """Return the first line of an error; its kind where that says nothing by itself."""
    line = next(iter(str(error).strip().splitlines()), "").strip()
    kind = type(error).__name__
    return line if " " in line and isinstance(error, OSError | ValueError) else f"{kind}: {line}"
