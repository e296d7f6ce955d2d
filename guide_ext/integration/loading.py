# SPDX-License-Identifier: MIT
"""Load a checkpoint and its tokenizer, ready for steering."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from guide_ext.integration.checkpoint import check_model, read_model, read_tokenizer
from guide_ext.integration.enable import enable
from guide_ext.integration.packaged import OnNote, resolved

# The dtypes that models can compute in.
DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")


def load_tokenizer(name: str, *, on_note: OnNote | None = None) -> Any:
    """Load a tokenizer for generation: with left padding and a padding token.

    Args:
        name: As for :func:`load`.
        on_note: As for :func:`load`.

    Raises:
        OSError: If the tokenizer cannot be found or read.
        MissingPackageError: If a package that the model needs is not installed.

    Example:
        >>> from importlib.resources import files
        >>> folder = files("guide_ext").joinpath("embedded", "model")
        >>> tokenizer = load_tokenizer(str(folder))
        >>> tokenizer.padding_side, tokenizer.pad_token is not None
        ('left', True)

    """
    tokenizer = read_tokenizer(resolved(name, on_note))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load(
    name: str,
    *,
    dtype: str = "auto",
    device: str | None = None,
    steerable: bool = True,
    on_note: OnNote | None = None,
) -> tuple[PreTrainedModel, Any]:
    """Load a checkpoint and its tokenizer, and enable the model.

    Args:
        name: A local folder or a hub id, as ``from_pretrained`` takes it; a ``.gguf`` file, or a
            folder that holds one and no ``config.json``; ``"embedded"``, the model that ships with
            this; ``"smollm2"``, SmolLM2-135M-Instruct from an installed package. The last two mean
            these models even where a folder has the same name.
        dtype: ``"auto"``, ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"float64"``. Auto is
            the stored dtype. On a CPU that has no instructions for products in that dtype, auto is
            float32, which is many times as fast there. Of a GGUF file, auto is float32.
        device: Where to put the model, e.g. ``"cuda:0"``. Default: a GPU if there is one, else CPU.
        steerable: Whether to enable the model; False for the baseline of a comparison.
        on_note: Called with remarks for the user, such as that ``"smollm2"`` is converted now,
            which takes 20 seconds and happens once.

    Returns:
        The model, in evaluation mode, and the tokenizer, with left padding.

    Raises:
        ValueError: If there is no such dtype or device, or the model cannot be steered exactly.
        OSError: If the checkpoint cannot be found or read, or lacks weights.
        MissingPackageError: If a package that the model needs is not installed.

    Example:
        >>> from importlib.resources import files
        >>> from guide_ext import integration as guide
        >>> folder = files("guide_ext").joinpath("embedded", "model")
        >>> model, tokenizer = load(str(folder), dtype="float32", device="cpu")
        >>> guide.is_enabled(model), model.dtype
        (True, torch.float32)

    """
    if dtype not in DTYPES:
        msg = f"dtype must be one of {', '.join(map(repr, DTYPES))}, got {dtype!r}"
        raise ValueError(msg)
    where = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    place = resolved(name, on_note)
    check_model(place)
    tokenizer = load_tokenizer(place)
    model = read_model(place, dtype=dtype, device=where).to(where).eval()
    return (enable(model) if steerable else model), tokenizer


def _device(name: str) -> torch.device:
    """Return a device of this machine; raise ValueError if there is no such device."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        msg = f"device must be one of this machine, such as 'cpu', got {name!r}: {reason}"
        raise ValueError(msg) from None
    if device.type == "meta":
        raise ValueError("device must be one of this machine, got 'meta', which holds no numbers")
    return device
