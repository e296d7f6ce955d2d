# SPDX-License-Identifier: MIT
"""Attention steering and attention-flow read-out inside one fused attention kernel.

Importing this registers ``torch.ops.guide.biased_attention`` as soon as torch is imported, too. The
names below are imported when they are first used, so that code that works on text alone never waits
for torch. Steering of transformers models is in :mod:`guide_ext.integration`.
"""

import importlib
from typing import TYPE_CHECKING

from guide_ext.support import lazy as _lazy
from guide_ext.support.version import VERSION

if TYPE_CHECKING:
    from guide_ext.calibration import Calibration, CalibrationError
    from guide_ext.influence import Influence
    from guide_ext.marking.spans import MarkedText, Span, TagError, escape, mark, parse
    from guide_ext.marking.tokens import Encoding
    from guide_ext.op.attention import Dispatch, biased_attention, explain_dispatch
    from guide_ext.op.share import attention_with_share
    from guide_ext.steering import Steering

__version__ = VERSION

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

_NAMES = {
    "guide_ext.calibration": ("Calibration", "CalibrationError"),
    "guide_ext.influence": ("Influence",),
    "guide_ext.marking.spans": ("MarkedText", "Span", "TagError", "escape", "mark", "parse"),
    "guide_ext.marking.tokens": ("Encoding",),
    "guide_ext.op.attention": ("Dispatch", "biased_attention", "explain_dispatch"),
    "guide_ext.op.share": ("attention_with_share",),
    "guide_ext.steering": ("Steering",),
}
_MODULES = (
    *("attention", "calibration", "chat", "influence", "reference", "share", "spans"),
    *("steering", "tokens"),
)

__getattr__, __dir__ = _lazy.attributes(
    __name__,
    {name: home for home, names in _NAMES.items() for name in names}
    | {name: f"{__name__}.{name}" for name in _MODULES},
)

_lazy.after_import("torch", lambda: importlib.import_module("guide_ext.op.registration"))
