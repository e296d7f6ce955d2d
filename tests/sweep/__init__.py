# SPDX-License-Identifier: MIT
"""Every architecture of the installed transformers, steered, beside its own eager attention.

``python -m tests.sweep`` builds each type small, with prompts longer than every window, selection,
chunk and compression, prints what came out, and writes ``docs/models.md``; it fails if any is
wrong.
"""
