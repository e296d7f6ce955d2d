# SPDX-License-Identifier: MIT
"""Measure Influence while a transformers model runs."""
