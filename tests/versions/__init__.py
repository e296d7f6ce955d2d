# SPDX-License-Identifier: MIT
"""The ends of what ``pyproject.toml`` claims, each in a virtual environment of its own."""
