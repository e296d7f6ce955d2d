# SPDX-License-Identifier: MIT
"""Find the tokens of marked text; see `guide_ext.marking.tokens`."""

from guide_ext.marking.tokens import Encoding, FastTokenizer, mark_tokens
from guide_ext.marking.tokens import encode_text as encode

__all__ = ["Encoding", "FastTokenizer", "encode", "mark_tokens"]
