"""Attention steering and attention-flow read-out inside one fused attention kernel."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("guide_ext")
except PackageNotFoundError:  # a source tree on PYTHONPATH that was never installed
    __version__ = "0+unknown"
