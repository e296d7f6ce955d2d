# SPDX-License-Identifier: MIT
"""Supervised fine-tuning, the alternative that the paper compares with."""
