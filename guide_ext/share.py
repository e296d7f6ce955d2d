# SPDX-License-Identifier: MIT
"""Attention with a minimum share for marked keys; see `guide_ext.op.share`."""

from guide_ext.op.share import attention_with_share

__all__ = ["attention_with_share"]
