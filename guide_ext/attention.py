# SPDX-License-Identifier: MIT
"""The op, and a function that says which implementation serves a call: `guide_ext.op.attention`."""

from guide_ext.op.attention import Dispatch, biased_attention, explain_dispatch

__all__ = ["Dispatch", "biased_attention", "explain_dispatch"]
