# SPDX-License-Identifier: MIT
"""The version of the package."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("guide_ext")
except PackageNotFoundError:  # a source tree on PYTHONPATH that was never installed
    VERSION = "0+unknown"
