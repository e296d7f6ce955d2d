# SPDX-License-Identifier: MIT
"""Importing this module makes ``attn_implementation="guide"`` known to transformers."""

from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from guide_ext.integration.call.attention import guide_attention
from guide_ext.integration.call.masks import (
    eager_mask,
    guide_dense_mask,
    guide_mask,
    keep_eager_mask,
)
from guide_ext.integration.modes import refuse_in_continuous_batching

# Always both: for a name without a mask function transformers makes no mask, not even for padding.
AttentionInterface.register("guide", guide_attention)
AttentionMaskInterface.register("guide", guide_mask)
AttentionInterface.register("guide_dense", guide_attention)
AttentionMaskInterface.register("guide_dense", guide_dense_mask)
# Models with attention of their own get the bias in this mask; for all others it stays what it is.
keep_eager_mask(ALL_MASK_ATTENTION_FUNCTIONS["eager"])
AttentionMaskInterface.register("eager", eager_mask)
refuse_in_continuous_batching()
