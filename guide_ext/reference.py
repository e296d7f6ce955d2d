# SPDX-License-Identifier: MIT
"""The oracle in float64; see `guide_ext.op.reference`."""

from guide_ext.op.reference import biased_attention_reference

__all__ = ["biased_attention_reference"]
