# SPDX-License-Identifier: MIT
"""Find out what is installed and compiled, which kernel would serve this machine, and why."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from guide_ext.machine.facts import machine_facts
from guide_ext.machine.processor import why_slow
from guide_ext.op.attention import explain_dispatch
from guide_ext.op.libraries import build_info, cuda_status, library_status

_PACKAGES = ("guide_ext", "torch", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True)
class KernelChoice:
    """The kernel that serves one kind of input on one device, and why no faster one does."""

    device: str
    dtype: str
    kernel: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Diagnosis:
    """Everything that ``guide-ext doctor`` prints.

    Attributes:
        versions: Version by package name; ``"not installed"`` for a missing package.
        machine: Facts about processor, threads and GPU.
        library_loaded: Whether the compiled library serves the op.
        library_reason: Where it was loaded from, or why it does not serve.
        cuda_library_reason: The same for the library of the CUDA kernels.
        build: ``_C.build_info()``; empty if the extension was not built.
        kernels: One entry per device and dtype.
        auto_dtypes: For each dtype of a stored checkpoint, the dtype that ``--dtype auto`` computes
            in on the CPU, and the reason if it is another one.

    """

    versions: dict[str, str]
    machine: dict[str, str]
    library_loaded: bool
    library_reason: str
    cuda_library_reason: str
    build: dict[str, Any]
    kernels: tuple[KernelChoice, ...]
    auto_dtypes: dict[str, str]


def _package_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _kernel_choices() -> tuple[KernelChoice, ...]:
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    choices = []
    for device in devices:
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            sample = torch.zeros(1, 4, 64, 64, dtype=dtype, device=device)
            found = explain_dispatch(sample, sample, sample, is_causal=True)
            name = str(dtype).removeprefix("torch.")
            choices.append(KernelChoice(device, name, found.kernel, found.reasons))
    return tuple(choices)


def _auto_dtypes() -> dict[str, str]:
    found = {}
    for dtype in (torch.bfloat16, torch.float16):
        name, reason = str(dtype).removeprefix("torch."), why_slow(dtype)
        found[name] = name if reason is None else f"float32, because {reason}"
    return found


def diagnose() -> Diagnosis:
    """Collect what ``guide-ext doctor`` prints.

    Example:
        >>> diagnosis = diagnose()
        >>> diagnosis.kernels[0].device
        'cpu'

    """
    status = library_status()
    return Diagnosis(
        versions=_package_versions(),
        machine=machine_facts(),
        library_loaded=status.loaded,
        library_reason=status.reason,
        cuda_library_reason=cuda_status().reason,
        build=build_info(),
        kernels=_kernel_choices(),
        auto_dtypes=_auto_dtypes(),
    )
