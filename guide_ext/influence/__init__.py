# SPDX-License-Identifier: MIT
"""Influence: how far marked tokens reach into every token of a text.

`forms` holds the recursions, `result` what a measurement returns, `record` what reports read.
`record` works without torch, so the names below are imported when they are first used.
"""

from typing import TYPE_CHECKING

from guide_ext.support import lazy as _lazy

if TYPE_CHECKING:
    from guide_ext.influence.forms import FORMS, Form, form_named
    from guide_ext.influence.result import Influence

__all__ = ["FORMS", "Form", "Influence", "form_named"]

__getattr__, __dir__ = _lazy.attributes(
    __name__,
    {
        "FORMS": "guide_ext.influence.forms",
        "Form": "guide_ext.influence.forms",
        "form_named": "guide_ext.influence.forms",
        "Influence": "guide_ext.influence.result",
    },
)
