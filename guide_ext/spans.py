# SPDX-License-Identifier: MIT
"""Marked text; see `guide_ext.marking.spans`."""

from guide_ext.marking.spans import DEFAULT_GROUP, MarkedText, Span, TagError, escape, mark, parse

__all__ = ["DEFAULT_GROUP", "MarkedText", "Span", "TagError", "escape", "mark", "parse"]
