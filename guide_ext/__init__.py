# SPDX-License-Identifier: MIT
"""Attention steering and attention-flow read-out inside one fused attention kernel.

Importing this registers ``torch.ops.guide.biased_attention``. Steering of transformers models is in
:mod:`guide_ext.integration`, which imports transformers and is therefore not imported here.
"""

from importlib.metadata import PackageNotFoundError, version

from guide_ext.attention import Dispatch, biased_attention, explain_dispatch
from guide_ext.calibration import Calibration, CalibrationError
from guide_ext.influence import Influence
from guide_ext.share import attention_with_share
from guide_ext.spans import MarkedText, Span, TagError, escape, mark, parse
from guide_ext.steering import Steering
from guide_ext.tokens import Encoding

try:
    __version__ = version("guide_ext")
except PackageNotFoundError:  # a source tree on PYTHONPATH that was never installed
    __version__ = "0+unknown"

__all__ = [
    "Calibration",
    "CalibrationError",
    "Dispatch",
    "Encoding",
    "Influence",
    "MarkedText",
    "Span",
    "Steering",
    "TagError",
    "attention_with_share",
    "biased_attention",
    "escape",
    "explain_dispatch",
    "mark",
    "parse",
]
