# SPDX-License-Identifier: MIT
"""Steering for transformers models.

Importing this registers ``attn_implementation="guide"``. `enable` prepares a loaded model, and
`encode` turns marked text into arguments for its `generate()`::

    import guide_ext.integration as guide

    guide.enable(model)
    inputs = guide.encode(model, tokenizer, "Answer <!!->in French<-!!>: who are you?", delta=2.0)
    output = model.generate(**inputs)
"""

# First: it refuses versions of transformers that lack what the rest imports.
from guide_ext.integration import versions as _versions  # noqa: F401

# isort: split
from guide_ext.integration import registration as _registration  # noqa: F401
from guide_ext.integration.answers import as_prompt, complete
from guide_ext.integration.atman import Explanation, atman
from guide_ext.integration.batching.requests import as_requests
from guide_ext.integration.calibrate import calibrate
from guide_ext.integration.collator import SteeringCollator
from guide_ext.integration.embedded import load_embedded
from guide_ext.integration.enable import disable, enable
from guide_ext.integration.examples import Example
from guide_ext.integration.highlight import highlight
from guide_ext.integration.influence.measure import generate_with_influence, influence
from guide_ext.integration.inputs import Inputs, encode
from guide_ext.integration.learn import learn_delta
from guide_ext.integration.learned import LearnedDelta
from guide_ext.integration.loading import load, load_tokenizer
from guide_ext.integration.model.state import is_enabled, layers_of, table_size
from guide_ext.integration.model.verify import UnsupportedModelError
from guide_ext.integration.pipelines import GuidePipeline, PayAttentionPipeline
from guide_ext.integration.profile import Profile, profile_heads
from guide_ext.integration.seka import ada_seka, fit_seka, seka
from guide_ext.integration.sources import Sources, sources
from guide_ext.steering.seka import KeyProjections

__all__ = [
    "Example",
    "Explanation",
    "GuidePipeline",
    "Inputs",
    "KeyProjections",
    "LearnedDelta",
    "PayAttentionPipeline",
    "Profile",
    "Sources",
    "SteeringCollator",
    "UnsupportedModelError",
    "ada_seka",
    "as_prompt",
    "as_requests",
    "atman",
    "calibrate",
    "complete",
    "disable",
    "enable",
    "encode",
    "fit_seka",
    "generate_with_influence",
    "highlight",
    "influence",
    "is_enabled",
    "layers_of",
    "learn_delta",
    "load",
    "load_embedded",
    "load_tokenizer",
    "profile_heads",
    "seka",
    "sources",
    "table_size",
]
