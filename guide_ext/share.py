# SPDX-License-Identifier: MIT
"""Steering by a share of the attention; see `guide_ext.op.share`."""

from guide_ext.op.share import attention_with_share

__all__ = ["attention_with_share"]
