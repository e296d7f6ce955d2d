# SPDX-License-Identifier: MIT
"""Which version of the package this is."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("guide_ext")
except PackageNotFoundError:  # a source tree on PYTHONPATH that was never installed
    VERSION = "0+unknown"
