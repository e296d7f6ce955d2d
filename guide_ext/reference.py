# SPDX-License-Identifier: MIT
"""The reference in float64, which tests compare with; see `guide_ext.op.reference`."""

from guide_ext.op.reference import biased_attention_reference

__all__ = ["biased_attention_reference"]
