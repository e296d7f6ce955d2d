# SPDX-License-Identifier: MIT
"""Every causal architecture of the installed transformers, steered, beside its own eager attention.

``python -m tests.sweep`` builds each type small, with prompts longer than every window, selection,
chunk and compression, and prints what came out; it fails if any is wrong.
"""
