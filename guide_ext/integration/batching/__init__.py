# SPDX-License-Identifier: MIT
"""Continuous batching of transformers, with a steering of its own for every request."""
