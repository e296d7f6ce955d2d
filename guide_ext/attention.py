# SPDX-License-Identifier: MIT
"""The op, and which implementation serves a call; see `guide_ext.op.attention`."""

from guide_ext.op.attention import Dispatch, biased_attention, explain_dispatch

__all__ = ["Dispatch", "biased_attention", "explain_dispatch"]
