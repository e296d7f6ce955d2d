# SPDX-License-Identifier: MIT
"""Influence of a transformers model while it runs."""
