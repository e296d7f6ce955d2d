# SPDX-License-Identifier: MIT
"""Steering for transformers models.

Importing this registers ``attn_implementation="guide"``; `enable` prepares a loaded model, and
`encode` turns marked text into what its `generate()` takes::

    import guide_ext.integration as guide

    guide.enable(model)
    inputs = guide.encode(model, tokenizer, "Answer <!!->in French<-!!>: who are you?", delta=2.0)
    output = model.generate(**inputs)
"""

import transformers
from packaging.version import Version
from transformers import AttentionInterface, AttentionMaskInterface

from guide_ext.integration.answers import as_prompt, complete
from guide_ext.integration.calibrate import calibrate
from guide_ext.integration.call.attention import guide_attention
from guide_ext.integration.call.masks import guide_dense_mask, guide_mask
from guide_ext.integration.collator import SteeringCollator
from guide_ext.integration.embedded import load_embedded
from guide_ext.integration.enable import disable, enable
from guide_ext.integration.influence.measure import generate_with_influence, influence
from guide_ext.integration.inputs import Inputs, encode
from guide_ext.integration.loading import load, load_tokenizer
from guide_ext.integration.model.state import is_enabled, table_size
from guide_ext.integration.model.verify import UnsupportedModelError
from guide_ext.integration.modes import refuse_in_continuous_batching

# Every version is tried before it is let in: 5.24 renamed the cache, of which a bias must know.
if not Version("5.23") <= Version(transformers.__version__) < Version("5.25"):
    raise ImportError(
        "guide_ext.integration must run with transformers >= 5.23 and < 5.25, got "
        f"{transformers.__version__}; install it with: pip install 'transformers>=5.23,<5.25'"
    )

# Always both: transformers drops every mask, padding included, for a name without a mask function.
AttentionInterface.register("guide", guide_attention)
AttentionMaskInterface.register("guide", guide_mask)
AttentionInterface.register("guide_dense", guide_attention)
AttentionMaskInterface.register("guide_dense", guide_dense_mask)
refuse_in_continuous_batching()

__all__ = [
    "Inputs",
    "SteeringCollator",
    "UnsupportedModelError",
    "as_prompt",
    "calibrate",
    "complete",
    "disable",
    "enable",
    "encode",
    "generate_with_influence",
    "influence",
    "is_enabled",
    "load",
    "load_embedded",
    "load_tokenizer",
    "table_size",
]
